/** @file The metrics by their definitions: whole arrays in memory, float64, no streaming, no tricks. */

const sum = (x: readonly number[]) => x.reduce((a, b) => a + b, 0)

export function softmax(row: readonly number[]): number[] {
  const max = Math.max(...row)
  const weights = row.map((x) => Math.exp(x - max))
  return weights.map((w) => w / sum(weights))
}

/** Σ p ln(p / q). */
export function kl(p: readonly number[], q: readonly number[]): number {
  return sum(p.map((pi, i) => (pi === 0 ? 0 : pi * Math.log(pi / q[i]!))))
}

export function sqnr(reference: readonly number[], candidate: readonly number[]): number {
  const noise = sum(reference.map((r, i) => (r - candidate[i]!) ** 2))
  return noise === 0 ? Number.POSITIVE_INFINITY : 10 * Math.log10(sum(reference.map((r) => r * r)) / noise)
}

export function cosine(a: readonly number[], b: readonly number[]): number {
  return sum(a.map((x, i) => x * b[i]!)) / Math.sqrt(sum(a.map((x) => x * x)) * sum(b.map((x) => x * x)))
}

export function largestDifference(a: readonly number[], b: readonly number[]): number {
  return Math.max(0, ...a.map((x, i) => Math.abs(x - b[i]!)))
}

/** Index of the largest value, the first of equals. */
export function argmax(row: readonly number[]): number {
  return row.indexOf(Math.max(...row))
}

/** Linear interpolation between order statistics (numpy's default). */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const at = share * (sorted.length - 1)
  const low = Math.floor(at)
  return sorted[low]! * (1 - (at - low)) + sorted[Math.min(low + 1, sorted.length - 1)]! * (at - low)
}

/** Standard error of a plain mean. */
export function standardErrorOfMean(values: readonly number[]): number {
  const mean = sum(values) / values.length
  return Math.sqrt(sum(values.map((x) => (x - mean) ** 2)) / (values.length - 1) / values.length)
}

/** −ln softmax(row)[target]. */
export function surprise(row: readonly number[], target: number): number {
  return -Math.log(softmax(row)[target]!)
}
