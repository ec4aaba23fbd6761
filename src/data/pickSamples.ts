/** @file Random choices among samples: the same for the same seed. */
import { makeRandom } from '../random.ts'

/**
 * The numbers 0 … n − 1 in random order (Fisher–Yates).
 * @param seed  any integer.
 */
export function shuffled(n: number, seed: number): Int32Array {
  const random = makeRandom(seed)
  const order = Int32Array.from({ length: n }, (_, i) => i)
  for (let i = n - 1; i > 0; i--) {
    const other = random.below(i + 1)
    const kept = order[i]!
    order[i] = order[other]!
    order[other] = kept
  }
  return order
}

/**
 * `count` of the numbers 0 … n − 1, ascending: the first, or with a seed a random choice.
 * @param count  at most n.
 */
export function pickSamples(n: number, count: number, seed: number | undefined): Int32Array {
  const order = seed === undefined ? Int32Array.from({ length: n }, (_, i) => i) : shuffled(n, seed)
  return order.slice(0, count).sort()
}
