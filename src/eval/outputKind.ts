/** @file What an output holds: class scores, whole numbers, or other numbers. Metrics differ by that. */
import { QtoolError } from '../errors.ts'
import type { Numbers } from './numbers.ts'
import { isFloatElement } from './numbers.ts'

/**
 * - `logits`         rows over the last axis whose softmax is a distribution (log-probabilities included)
 * - `probabilities`  rows over the last axis are distributions themselves
 * - `integers`       whole numbers or truth values, such as class ids: compared for equality
 * - `numbers`        anything else: embeddings, feature maps, boxes
 */
export type OutputKind = 'logits' | 'probabilities' | 'integers' | 'numbers'

/** Words in an output's name that say class scores. 'scores' alone is not among them: detectors call confidences so. */
const SCORE_NAMES = /(^|[^a-z])(logits?|log_?probs?|probs?|probabilit(y|ies)|softmax)([^a-z]|$)/i

/** Rows of float16 probabilities over thousands of classes miss 1 by up to this. */
const SUM_TOLERANCE = 0.01

export interface OutputEvidence {
  readonly name: string
  readonly elementType: string
  /** Shape of the reference's output on the first batch. */
  readonly dims: readonly number[]
  /** The reference's values on the first batch. */
  readonly values: Numbers
  /** Rows over the last axis that count (not padding); undefined when all do. */
  readonly rows: readonly number[] | undefined
  /** Largest label, when there is one label per row of this output. */
  readonly largestLabel: number | undefined
  /** What the user says: names of the outputs that are logits or probabilities, or 'auto' to decide here. */
  readonly logits: 'auto' | readonly string[]
}

/**
 * Decide what an output holds. Class scores are a floating-point output of rank ≥ 2 with at least two classes on its
 * last axis for which one of these holds, in this order:
 *
 * 1. the user named it; with names given (or an empty list), no other output is one;
 * 2. every row is a distribution: non-negative and summing to 1 (probabilities), or exponentials summing to 1
 *    (log-probabilities);
 * 3. there is one label per row, and all labels are below the number of classes;
 * 4. its name says so (logits, probs, softmax, …) and its rank is 2 or 3 — at rank 4 and above the classes of a
 *    segmentation lie on axis 1.
 *
 * @throws QtoolError `usage` when the user named an output that cannot hold class scores
 */
export function outputKind(evidence: OutputEvidence): OutputKind {
  const { name, dims, logits } = evidence
  const classes = dims.at(-1) ?? 0
  const possible = isFloatElement(evidence.elementType) && dims.length >= 2 && classes >= 2
  if (logits !== 'auto' && logits.includes(name) && !possible) {
    throw new QtoolError(
      'usage',
      `output ${name} is said to be logits, but is ${evidence.elementType} [${dims.join(', ')}]`,
      { hint: 'logits are floating-point numbers with the classes on the last of at least two axes' },
    )
  }
  if (!isFloatElement(evidence.elementType)) return 'integers'
  if (!possible) return 'numbers'
  const asScores = rowsAre(evidence, classes, isDistribution) ? 'probabilities' : 'logits'
  if (logits !== 'auto') return logits.includes(name) ? asScores : 'numbers'
  if (asScores === 'probabilities' || rowsAre(evidence, classes, isLogDistribution)) return asScores
  if (evidence.largestLabel !== undefined && evidence.largestLabel < classes) return 'logits'
  return SCORE_NAMES.test(name) && dims.length <= 3 ? 'logits' : 'numbers'
}

/** True when there are rows and every one that counts passes. */
function rowsAre(
  evidence: OutputEvidence,
  classes: number,
  test: (values: Numbers, offset: number, classes: number) => boolean,
): boolean {
  const rows = evidence.rows ?? Array.from({ length: evidence.values.length / classes }, (_, row) => row)
  return rows.length > 0 && rows.every((row) => test(evidence.values, row * classes, classes))
}

/** Non-negative and summing to 1. */
export function isDistribution(values: Numbers, offset: number, classes: number): boolean {
  let sum = 0
  for (let i = offset; i < offset + classes; i++) {
    if (!(values[i]! >= 0)) return false
    sum += values[i]!
  }
  return Math.abs(sum - 1) <= SUM_TOLERANCE
}

function isLogDistribution(values: Numbers, offset: number, classes: number): boolean {
  let sum = 0
  for (let i = offset; i < offset + classes; i++) {
    if (!(values[i]! <= 0)) return false
    sum += Math.exp(values[i]!)
  }
  return Math.abs(sum - 1) <= SUM_TOLERANCE
}
