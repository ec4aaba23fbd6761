/** @file An orthogonal change of basis of a vector space of `width` dimensions. */

/** Row vectors are multiplied from the right: v ← v·Q. */
export interface Rotation {
  readonly width: number
  /** v ← v·Q for each of the vectors. @param vectors [n, width], overwritten. */
  applyInPlace(vectors: Float64Array): void
  /** v ← v·Qᵀ. @param vectors [n, width], overwritten. */
  invertInPlace(vectors: Float64Array): void
}
