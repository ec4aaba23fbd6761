/**
 * @file Paley's two families of Hadamard matrices (R. E. A. C. Paley, On orthogonal matrices, 1933), from the squares of a
 * finite field. With powers of primes, not only primes: 52 needs GF(25), 344 needs GF(343).
 */
import { type GaloisField, galoisField } from './galoisField.ts'

/** True where {@link paleyMatrix} has a matrix of this order. */
export function isPaleyOrder(order: number): boolean {
  return constructionOf(order) !== undefined
}

/**
 * A matrix H of ±1, [order, order] row-major, with H·Hᵀ = order·I.
 * @throws RangeError where the order is neither q + 1 with q ≡ 3 nor 2(q + 1) with q ≡ 1 modulo 4, q a power of a prime.
 */
export function paleyMatrix(order: number): Int8Array {
  const construction = constructionOf(order)
  if (!construction) throw new RangeError(`there is no Paley matrix of order ${order}`)
  const field = galoisField(construction.q)!
  return construction.kind === 1 ? first(field) : second(field)
}

function constructionOf(order: number): { readonly kind: 1 | 2; readonly q: number } | undefined {
  if (order % 4 !== 0) return undefined
  if (isPrimePower(order - 1)) return { kind: 1, q: order - 1 }
  const q = order / 2 - 1
  return q % 4 === 1 && isPrimePower(q) ? { kind: 2, q } : undefined
}

function isPrimePower(q: number): boolean {
  if (q < 2) return false
  let p = 2
  while (q % p !== 0 && p * p <= q) p++
  if (q % p !== 0) return true
  let rest = q
  while (rest % p === 0) rest /= p
  return rest === 1
}

/** [[0, 1ᵀ], [±1, Q]] with Q_ab = χ(a − b), [q + 1, q + 1]; minus where χ(−1) = −1, so that it is skew, else symmetric. */
function conference({ order: q, subtract, character }: GaloisField): Int8Array {
  const n = q + 1
  const matrix = new Int8Array(n * n)
  const mirror = q % 4 === 3 ? -1 : 1
  for (let a = 0; a < q; a++) {
    matrix[a + 1] = 1
    matrix[(a + 1) * n] = mirror
    for (let b = 0; b < q; b++) matrix[(a + 1) * n + b + 1] = character[subtract(a, b)]!
  }
  return matrix
}

/** H = I + S with S skew: H·Hᵀ = I + S·Sᵀ = (q + 1)·I. */
function first(field: GaloisField): Int8Array {
  const matrix = conference(field)
  for (let i = 0; i <= field.order; i++) matrix[i * (field.order + 2)] = 1
  return matrix
}

/** H = C ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]] with C symmetric. */
function second(field: GaloisField): Int8Array {
  const m = field.order + 1
  const n = 2 * m
  const small = conference(field)
  const matrix = new Int8Array(n * n)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < m; j++) {
      const c = small[i * m + j]!
      const d = i === j ? 1 : 0
      matrix[2 * i * n + 2 * j] = c + d
      matrix[2 * i * n + 2 * j + 1] = c - d
      matrix[(2 * i + 1) * n + 2 * j] = c - d
      matrix[(2 * i + 1) * n + 2 * j + 1] = -c - d
    }
  }
  return matrix
}
