/** @file Symmetric matrices for tests of factors and solves. */
import { makeRandom, type Random } from '../../src/random.ts'

export const random: Random = makeRandom(11)

export const normals = (length: number): Float64Array => new Float64Array(length).map(() => random.normal())

/** Σ of `terms` outer products of normal vectors, plus `ridge` on the diagonal: [n, n]. */
export function gram(n: number, terms: number, ridge: number): Float64Array {
  const x = normals(n * terms)
  const h = new Float64Array(n * n)
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = i === j ? ridge : 0
      for (let t = 0; t < terms; t++) sum += x[t * n + i]! * x[t * n + j]!
      h[i * n + j] = sum
      h[j * n + i] = sum
    }
  }
  return h
}

/** U·diag(pivots)·Uᵀ for a random upper triangular U with a unit diagonal: the pivots of its factor are those given. */
export function withPivots(pivots: readonly number[]): Float64Array {
  const n = pivots.length
  const u = normals(n * n).map((value) => (0.3 * value) / Math.sqrt(n))
  const at = (i: number, k: number) => (i === k ? 1 : i < k ? u[i * n + k]! : 0)
  const h = new Float64Array(n * n)
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      for (let k = Math.max(i, j); k < n; k++) h[i * n + j]! += at(i, k) * pivots[k]! * at(j, k)
    }
  }
  return h
}

/** 1 / (i + j + 1) with a ridge: nearly singular for any n above 12 or so, in each of its blocks. */
export function hilbert(n: number, ridge: number): Float64Array {
  return new Float64Array(n * n).map((_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    return 1 / (i + j + 1) + (i === j ? ridge : 0)
  })
}

/** Numbers of rows that lie on both sides of the borders of blocks. */
export const SIZES = [1, 2, 3, 63, 64, 65, 127, 128, 129, 130, 200, 257] as const

export const bytes = (array: Float64Array): Buffer => Buffer.from(Uint8Array.from(new Uint8Array(array.buffer)))
