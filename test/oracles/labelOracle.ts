/** @file Cross entropy and accuracy of class scores by their definitions, one sample after the other. */

/** −ln softmax(scores)[label], in nats. */
export function crossEntropy(scores: ArrayLike<number>, label: number): number {
  const odds = Array.from(scores, (score) => Math.exp(score - scores[label]!))
  return Math.log(odds.reduce((a, b) => a + b, 0))
}

/** Is no class before the label at least as large, and none after it larger? */
export function isRight(scores: ArrayLike<number>, label: number): boolean {
  return Array.from(scores).every((score, i) => (i < label ? score < scores[label]! : score <= scores[label]!))
}

/** Mean, and its standard error by the sum over all pairs: s² = Σᵢⱼ (xᵢ − xⱼ)² / (2n(n − 1)). */
export function meanWithError(values: readonly number[]): { readonly mean: number; readonly standardError: number } {
  const n = values.length
  let squares = 0
  for (const a of values) for (const b of values) squares += (a - b) ** 2
  return {
    mean: values.reduce((a, b) => a + b, 0) / n,
    standardError: Math.sqrt(squares / (2 * n * (n - 1)) / n),
  }
}
