/** @file Finite fields of odd order: what Paley's matrices need of them, differences and which elements are squares. */

/** GF(q). Elements are the numbers 0 … q − 1, whose digits to the base p are the coefficients of a polynomial. */
export interface GaloisField {
  readonly order: number
  subtract(a: number, b: number): number
  /** The quadratic character: 0 for 0, 1 for squares, −1 for the others. [q] */
  readonly character: Int8Array
}

/** The field with q elements; undefined where q is even or no power of a prime. Takes O(q·k²), q = p^k. */
export function galoisField(q: number): GaloisField | undefined {
  const p = smallestDivisor(q)
  if (q < 3 || p === 2) return undefined
  let degree = 0
  for (let rest = q; rest > 1; rest /= p) {
    if (rest % p !== 0) return undefined
    degree++
  }
  const modulus = irreducible(p, degree)
  const elements = Array.from({ length: q }, (_, a) => digitsOf(a, p, degree))
  const character = new Int8Array(q).fill(-1)
  character[0] = 0
  for (const a of elements.slice(1)) character[numberOf(remainder(product(a, a, p), modulus, p), p)] = 1
  const subtract = (a: number, b: number): number => {
    let difference = 0
    for (let unit = 1, x = a, y = b; unit < q; unit *= p) {
      difference += ((x - y + p * q) % p) * unit
      x = Math.floor(x / p)
      y = Math.floor(y / p)
    }
    return difference
  }
  return { order: q, subtract, character }
}

function smallestDivisor(n: number): number {
  for (let p = 2; p * p <= n; p++) if (n % p === 0) return p
  return n
}

/** Coefficients of a polynomial over GF(p), the constant one first. */
type Polynomial = readonly number[]

function digitsOf(a: number, p: number, count: number): Polynomial {
  return Array.from({ length: count }, (_, i) => Math.floor(a / p ** i) % p)
}

function numberOf(digits: Polynomial, p: number): number {
  return digits.reduceRight((sum, digit) => sum * p + digit, 0)
}

function product(a: Polynomial, b: Polynomial, p: number): number[] {
  const sums = new Array<number>(a.length + b.length - 1).fill(0)
  a.forEach((x, i) => {
    b.forEach((y, j) => {
      sums[i + j] = (sums[i + j]! + x * y) % p
    })
  })
  return sums
}

/** a modulo a polynomial whose leading coefficient is 1. */
function remainder(a: Polynomial, modulus: Polynomial, p: number): number[] {
  const rest = [...a]
  const degree = modulus.length - 1
  for (let top = rest.length - 1; top >= degree; top--) {
    const factor = rest[top]!
    for (let i = 0; i <= degree; i++) {
      const at = top - degree + i
      rest[at] = (((rest[at]! - factor * modulus[i]!) % p) + p) % p
    }
  }
  return rest.slice(0, degree)
}

/** The first polynomial of a degree, leading coefficient 1, that no one of a smaller degree divides. */
function irreducible(p: number, degree: number): Polynomial {
  for (let a = 0; ; a++) {
    const candidate = [...digitsOf(a, p, degree), 1]
    if (!hasDivisor(candidate, p)) return candidate
  }
}

function hasDivisor(polynomial: Polynomial, p: number): boolean {
  const degree = polynomial.length - 1
  for (let lower = 1; 2 * lower <= degree; lower++) {
    for (let a = 0; a < p ** lower; a++) {
      const divisor = [...digitsOf(a, p, lower), 1]
      if (remainder(polynomial, divisor, p).every((digit) => digit === 0)) return true
    }
  }
  return false
}
