/** @file Tables of vectors: plain k-means on the weights of lanes (GPTVQ's initialisation, without its Hessian weights). */
import type { Random } from '../random.ts'

/** Vectors of a table. */
const ENTRIES = 256
/** Vectors that take part. */
const SAMPLE = 16384
const ROUNDS = 12

/**
 * 256 centres of the vectors, in units of their rows' scales.
 * @param vectors [n, dim], normalised.
 * @returns [256, dim]; entries that no vector is nearest to keep their first place.
 */
export function vectorTable(vectors: Float32Array, dim: number, random: Random): Float32Array {
  const count = vectors.length / dim
  const sample = Float32Array.from({ length: Math.min(SAMPLE, count) * dim }, () => 0)
  for (let i = 0; i < sample.length / dim; i++) {
    const from = (count <= SAMPLE ? i : random.below(count)) * dim
    sample.set(vectors.subarray(from, from + dim), i * dim)
  }
  const centres = new Float32Array(ENTRIES * dim)
  for (let e = 0; e < ENTRIES; e++) {
    const from = random.below(sample.length / dim) * dim
    centres.set(sample.subarray(from, from + dim), e * dim)
  }
  for (let round = 0; round < ROUNDS; round++) move(centres, sample, dim)
  return centres
}

function move(centres: Float32Array, sample: Float32Array, dim: number): void {
  const sums = new Float64Array(centres.length)
  const counts = new Float64Array(ENTRIES)
  for (let at = 0; at < sample.length; at += dim) {
    let best = 0
    let least = Number.POSITIVE_INFINITY
    for (let e = 0; e < ENTRIES; e++) {
      let distance = 0
      for (let i = 0; i < dim; i++) distance += (sample[at + i]! - centres[e * dim + i]!) ** 2
      if (distance < least) {
        least = distance
        best = e
      }
    }
    counts[best]!++
    for (let i = 0; i < dim; i++) sums[best * dim + i]! += sample[at + i]!
  }
  for (let e = 0; e < ENTRIES; e++) {
    for (let i = 0; i < dim && counts[e]! > 0; i++) centres[e * dim + i] = sums[e * dim + i]! / counts[e]!
  }
}
