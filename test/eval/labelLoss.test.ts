/** Cross entropy and accuracy by labels, batch after batch, against their definitions. */
import { describe, expect, it } from 'vitest'
import { LabelLoss } from '../../src/eval/labelLoss.ts'
import { makeRandom } from '../../src/random.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { crossEntropy, isRight, meanWithError } from '../oracles/labelOracle.ts'

const CLASSES = 5
const random = makeRandom(3)
const tensor = (values: readonly number[], dims = [values.length / CLASSES, CLASSES]) =>
  ({ type: 'float', dims, data: Float32Array.from(values) }) as const
const drawn = (rows: number) => Array.from({ length: rows * CLASSES }, () => 2 * random.normal())
const rowOf = (values: ArrayLike<number>, row: number) =>
  Array.from({ length: CLASSES }, (_, c) => values[row * CLASSES + c]!)

/** Two batches, of 7 and 4 samples; two have no label. */
const labels = [
  [0, 3, -1, 4, 2, 2, 1],
  [1, 0, -100, 4],
]

function referenced(asProbabilities: boolean) {
  const [float, changed] = [labels.map((own) => drawn(own.length)), labels.map((own) => drawn(own.length))]
  const softmax = (values: readonly number[]) =>
    values.flatMap((_, i) => {
      if (i % CLASSES !== 0) return []
      const odds = rowOf(values, i / CLASSES).map(Math.exp)
      return odds.map((one) => one / odds.reduce((a, b) => a + b, 0))
    })
  const given = (values: readonly number[]) => tensor(asProbabilities ? softmax(values) : values)
  const loss = new LabelLoss(4)
  for (const [b, own] of labels.entries()) {
    loss.addReference(b, 'features', tensor([...own.keys()], [own.length, 1]), own, own)
    loss.addReference(b, 'y', given(float[b]!), own, own)
    loss.addReference(b, 'aux', given(changed[b]!), own, own)
  }
  return { loss, float, changed, given }
}

describe('labels', () => {
  it.each([false, true])('of scores (probabilities: %s) give what the definitions say', (asProbabilities) => {
    const { loss, float, changed, given } = referenced(asProbabilities)
    expect([loss.output, loss.samples]).toEqual(['y', 9])
    const losses: number[] = []
    const right: number[] = []
    const paired: { readonly loss: number; readonly float: boolean; readonly right: boolean }[] = []
    for (const [b, own] of labels.entries()) {
      const figures = loss.compare(b, new Map([['y', given(changed[b]!)]]))
      losses.push(...figures.losses)
      right.push(...figures.right)
      own.forEach((label, s) => {
        const [before, after] = [rowOf(float[b]!, s), rowOf(changed[b]!, s)]
        if (label < 0) return
        const difference = crossEntropy(after, label) - crossEntropy(before, label)
        paired.push({ loss: difference, float: isRight(before, label), right: isRight(after, label) })
      })
    }
    expect(losses.length).toBe(paired.length)
    for (const [i, one] of paired.entries()) expect(losses[i]).toBeCloseTo(one.loss, 5)
    expect(losses.some((one) => one < 0)).toBe(true)
    const accuracy = loss.accuracy(right)
    expect(accuracy).toMatchObject({
      samples: 9,
      floatRight: paired.filter((one) => one.float).length,
      right: paired.filter((one) => one.right).length,
    })
    const { standardError } = meanWithError(paired.map((one) => Number(one.right) - Number(one.float)))
    expect(standardError).toBeGreaterThan(0)
    expect(accuracy.standardError).toBeCloseTo(standardError, 12)
  })

  it('say that nothing has changed where the scores are left out', () => {
    const { loss } = referenced(false)
    const figures = labels.map((_, b) => loss.compare(b, new Map()))
    expect(figures.flatMap(({ losses }) => losses)).toEqual(new Array(9).fill(0))
    const accuracy = loss.accuracy(figures.flatMap(({ right }) => right))
    expect([accuracy.right, accuracy.standardError]).toEqual([accuracy.floatRight, 0])
  })

  it('are wrong, and lost without bound, where the candidate gives NaN', () => {
    const { loss } = referenced(false)
    const broken = tensor(
      labels[1]!.flatMap((label) => [9, 9, 9, 9, 9].with(Math.max(0, label), 10)).with(2, Number.NaN),
    )
    const { losses, right } = loss.compare(1, new Map([['y', broken]]))
    expect(losses[0]).toBe(Number.POSITIVE_INFINITY)
    expect(right).toEqual([0, 1, 1])
  })

  it('that are no class of the output are refused', () => {
    const loss = new LabelLoss(7)
    const given = tensor(drawn(2))
    expectQtoolError(
      'data',
      () => loss.addReference(0, 'logits', given, [1, 7], [30, 31]),
      'label 7 of sample 31: logits has 5 classes',
    )
    // Nothing says that this one holds class scores.
    const other = new LabelLoss(7)
    other.addReference(0, 'y', given, [1, 7], [30, 31])
    expect(other.output).toBeUndefined()
  })
})
