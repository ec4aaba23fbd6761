/** @file Scores and weights of tokens of one sequence by their definitions, one number at a time. Padding is left out before. */

type Row = readonly number[]

const distance2 = (a: Row, b: Row) => a.reduce((sum, value, k) => sum + (value - b[k]!) ** 2, 0)
const zeros = (row: Row) => row.map(() => 0)

export const slowNorm = (x: readonly Row[]) => x.map((row) => Math.sqrt(distance2(row, zeros(row))))
export const slowDifference = (x: readonly Row[], y: readonly Row[]) =>
  x.map((row, t) => -Math.sqrt(distance2(row, y[t]!)))
export const slowSimilarity = (x: readonly Row[]) =>
  x.map((row) => x.reduce((sum, other) => sum + distance2(row, other), 0) / x.length)
export const slowFrequency = (ids: Row, all: Row) => ids.map((id) => -all.filter((other) => other === id).length)

/** Token t is in chunk c of n when any part of [t, t + 1) is in [c·T/n, (c + 1)·T/n). */
export const slowChunks = (tokens: number, keep: Row, n: number) =>
  Array.from({ length: tokens }, (_, t) =>
    keep.some((c) => t * n < (c + 1) * tokens && (t + 1) * n > c * tokens) ? 1 : 0,
  )

/** Rows of softmax(q·kᵀ·scale), summed over queries: what each key receives from one head. */
export function slowReceived(q: readonly Row[], k: readonly Row[], scale: number, causal: boolean): number[] {
  const received = k.map(() => 0)
  q.forEach((query, i) => {
    const scores = k.map((key, t) =>
      causal && t > i ? Number.NEGATIVE_INFINITY : scale * query.reduce((sum, value, d) => sum + value * key[d]!, 0),
    )
    const shares = scores.map((score) => Math.exp(score - Math.max(...scores)))
    const total = shares.reduce((a, b) => a + b, 0)
    shares.forEach((share, t) => {
      received[t]! += share / total
    })
  })
  return received
}

/** Min–max to [rMin, 1] between two quantiles (linear between neighbours), to a power, over the mean. */
export function slowWeights(scores: Row, rMin: number, exponent: number, quantile = 1): number[] {
  const sorted = [...scores].sort((a, b) => a - b)
  const bound = (share: number) => {
    const at = share * (sorted.length - 1)
    const rest = at - Math.trunc(at)
    return (1 - rest) * sorted[Math.trunc(at)]! + rest * (sorted[Math.trunc(at) + 1] ?? 0)
  }
  const [least, most] = [bound(1 - quantile), bound(quantile)]
  const r = scores.map((score) => {
    const share = (score - least) / (most - least)
    return (rMin + (1 - rMin) * (share < 0 ? 0 : share > 1 ? 1 : share)) ** exponent
  })
  const mean = r.reduce((a, b) => a + b, 0) / r.length
  return r.map((value) => value / mean)
}
