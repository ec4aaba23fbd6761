/** @file Samples of a sequence that may have a period of its own. */

/** Fractional part of the golden ratio: multiples of it never come close to a period. */
const GOLDEN = (Math.sqrt(5) - 1) / 2

/**
 * Places that stand for all of a sequence: one of each of `count` equal parts, but not at the same place of each, since rows
 * of two kinds that take turns would all be of one kind.
 * @param count at most `length`, for which it is all places.
 * @returns ascending, without repetition.
 */
export function spreadPlaces(count: number, length: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => {
    const start = Math.floor((i * length) / count)
    const end = Math.floor(((i + 1) * length) / count)
    return start + Math.floor(((i * GOLDEN) % 1) * (end - start))
  })
}
