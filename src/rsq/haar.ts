/** @file Uniformly distributed orthogonal matrices of any width. */
import type { Random } from '../random.ts'
import type { Rotation } from './rotation.ts'

/**
 * A rotation with Haar's distribution, that of the orthogonal factor of a Gaussian matrix, without factoring one: a product
 * of Householder reflections of Gaussian vectors of falling lengths, and signs (G. W. Stewart, The efficient generation of random
 * orthogonal matrices with an application to condition estimators, 1980). O(width²) to make, and for each vector.
 */
export function haarRotation(width: number, random: Random): Rotation {
  const signs = new Float64Array(width)
  const mirrors = Array.from({ length: width }, (_, i) => {
    const vector = Float64Array.from({ length: width - i }, () => random.normal())
    const sign = vector[0]! < 0 ? -1 : 1
    // The mirror takes e₁ to −sign·x/‖x‖: the one of both signs that does not cancel.
    vector[0]! += sign * Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0))
    signs[i] = -sign
    return vector
  })
  const flip = (vector: Float64Array) => {
    for (let i = 0; i < width; i++) vector[i]! *= signs[i]!
  }
  return {
    width,
    applyInPlace: (vectors) => {
      for (const vector of vectorsOf(vectors, width)) {
        mirrors.forEach((mirror, i) => {
          reflectInPlace(vector.subarray(i), mirror)
        })
        flip(vector)
      }
    },
    invertInPlace: (vectors) => {
      for (const vector of vectorsOf(vectors, width)) {
        flip(vector)
        for (let i = width - 1; i >= 0; i--) reflectInPlace(vector.subarray(i), mirrors[i]!)
      }
    },
  }
}

/** v ← v·(I − 2·u·uᵀ/uᵀu). A mirror of zeros leaves v as it is. */
export function reflectInPlace(vector: Float64Array, mirror: Float64Array): void {
  let dot = 0
  let square = 0
  for (let i = 0; i < mirror.length; i++) {
    dot += vector[i]! * mirror[i]!
    square += mirror[i]! * mirror[i]!
  }
  if (square === 0) return
  const factor = (2 * dot) / square
  for (let i = 0; i < mirror.length; i++) vector[i]! -= factor * mirror[i]!
}

/** The vectors of [n, width], one after the other; views. @throws RangeError where the numbers are no such vectors. */
export function* vectorsOf(vectors: Float64Array, width: number): Generator<Float64Array> {
  if (vectors.length % width !== 0) throw new RangeError(`${vectors.length} numbers are no vectors of ${width}`)
  for (let at = 0; at < vectors.length; at += width) yield vectors.subarray(at, at + width)
}
