/**
 * @file Eigenvalues and eigenvectors of a symmetric matrix: Householder reflections to tridiagonal form, then QR steps
 * with Wilkinson's shift (Golub & Van Loan, Matrix Computations, 8.3).
 */

interface Eigen {
  /** In no particular order. */
  readonly values: Float64Array
  /** [n, n]: row e is the unit eigenvector of `values[e]`. */
  readonly vectors: Float64Array
}

/** QR steps per eigenvalue; two or three are usual. */
const MOST_STEPS = 60

/**
 * @param matrix [n, n], symmetric, finite; only read.
 * @throws RangeError when the matrix is not finite.
 */
export function symmetricEigen(matrix: Float64Array, n: number): Eigen {
  if (!matrix.every(Number.isFinite)) throw new RangeError('matrix is not finite')
  const a = matrix.slice()
  const reflectors = tridiagonalizeInPlace(a, n)
  const values = Float64Array.from({ length: n }, (_, i) => a[i * n + i]!)
  const beside = Float64Array.from({ length: Math.max(0, n - 1) }, (_, i) => a[(i + 1) * n + i]!)
  const vectors = transposedBasis(reflectors, n)
  diagonalizeInPlace(values, beside, vectors, n)
  return { values, vectors }
}

/** A ← Qᵀ A Q, tridiagonal. Returns the unit vectors v of the reflections I − 2vvᵀ, first to last; v = 0 for none. */
function tridiagonalizeInPlace(a: Float64Array, n: number): Float64Array[] {
  const reflectors: Float64Array[] = []
  const p = new Float64Array(n)
  for (let k = 0; k + 2 < n; k++) {
    const v = new Float64Array(n)
    let tail = 0
    for (let i = k + 1; i < n; i++) {
      v[i] = a[i * n + k]!
      if (i > k + 1) tail += v[i]! * v[i]!
    }
    reflectors.push(v)
    if (tail === 0) {
      v.fill(0)
      continue
    }
    const norm = Math.sqrt(tail + v[k + 1]! * v[k + 1]!)
    v[k + 1]! += v[k + 1]! >= 0 ? norm : -norm
    const length = Math.sqrt(tail + v[k + 1]! * v[k + 1]!)
    for (let i = k + 1; i < n; i++) v[i]! /= length
    let along = 0
    for (let i = k; i < n; i++) {
      let sum = 0
      for (let j = k + 1; j < n; j++) sum += a[i * n + j]! * v[j]!
      p[i] = 2 * sum
      along += p[i]! * v[i]!
    }
    for (let i = k; i < n; i++) p[i]! -= along * v[i]!
    for (let i = k; i < n; i++) {
      for (let j = k; j < n; j++) a[i * n + j]! -= v[i]! * p[j]! + p[i]! * v[j]!
    }
  }
  return reflectors
}

/** Qᵀ of the product Q of all reflections. */
function transposedBasis(reflectors: readonly Float64Array[], n: number): Float64Array {
  const basis = new Float64Array(n * n)
  for (let i = 0; i < n; i++) basis[i * n + i] = 1
  for (let r = reflectors.length - 1; r >= 0; r--) {
    const v = reflectors[r]!
    // Rows of Qᵀ are columns of Q: reflecting Q from the left acts on each of them alone.
    for (let i = 0; i < n; i++) {
      let dot = 0
      for (let j = r + 1; j < n; j++) dot += basis[i * n + j]! * v[j]!
      if (dot === 0) continue
      for (let j = r + 1; j < n; j++) basis[i * n + j]! -= 2 * dot * v[j]!
    }
  }
  return basis
}

function diagonalizeInPlace(d: Float64Array, e: Float64Array, vectors: Float64Array, n: number): void {
  let high = n - 1
  for (let steps = 0; high > 0; ) {
    for (let k = 0; k < high; k++) {
      if (Math.abs(e[k]!) <= Number.EPSILON * (Math.abs(d[k]!) + Math.abs(d[k + 1]!))) e[k] = 0
    }
    if (e[high - 1] === 0) {
      high--
      steps = 0
      continue
    }
    if (++steps > MOST_STEPS) throw new RangeError('eigenvalues do not converge')
    let low = high - 1
    while (low > 0 && e[low - 1] !== 0) low--
    stepInPlace(d, e, vectors, n, low, high)
  }
}

/** One QR step on rows low … high, by rotations of neighbours. */
function stepInPlace(d: Float64Array, e: Float64Array, vectors: Float64Array, n: number, low: number, high: number) {
  const half = (d[high - 1]! - d[high]!) / 2
  const last = e[high - 1]!
  const shift = d[high]! - (last * last) / (half + (half >= 0 ? 1 : -1) * Math.hypot(half, last))
  let x = d[low]! - shift
  let z = e[low]!
  for (let k = low; k < high; k++) {
    const r = Math.hypot(x, z)
    const [c, s] = r > 0 ? [x / r, z / r] : [1, 0]
    if (k > low) e[k - 1] = r
    const [d1, d2, b] = [d[k]!, d[k + 1]!, e[k]!]
    d[k] = c * c * d1 + 2 * c * s * b + s * s * d2
    d[k + 1] = s * s * d1 - 2 * c * s * b + c * c * d2
    e[k] = c * s * (d2 - d1) + (c * c - s * s) * b
    if (k + 1 < high) {
      x = e[k]!
      z = s * e[k + 1]!
      e[k + 1]! *= c
    }
    for (let i = k * n, j = i + n; i < (k + 1) * n; i++, j++) {
      const [p, q] = [vectors[i]!, vectors[j]!]
      vectors[i] = c * p + s * q
      vectors[j] = c * q - s * p
    }
  }
}
