/** The loss of each held-out sample, against a slow oracle: several outputs, batches of any size, padding. */
import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { HeldOutOutputs } from '../../src/quantize/heldOutOutputs.ts'
import { makeRandom } from '../../src/random.ts'

const LENGTH = 4
const CLASSES = 5

/** One sample of one output: [positions][numbers], of both networks. */
interface Sample {
  readonly float: readonly (readonly number[])[]
  readonly quantized: readonly (readonly number[])[]
  readonly counts: readonly boolean[]
}

function draw(count: number, positions: number, width: number, seed: number): Sample[] {
  const random = makeRandom(seed)
  const rows = () => Array.from({ length: positions }, () => Array.from({ length: width }, () => random.normal()))
  return Array.from({ length: count }, (_, sample) => {
    const float = rows()
    const quantized = rows().map((row, t) => row.map((value, i) => float[t]![i]! + 0.3 * value))
    return { float, quantized, counts: Array.from({ length: positions }, (_, t) => t < 1 + (sample % positions)) }
  })
}

const softmax = (row: readonly number[]) => {
  const sum = row.reduce((all, value) => all + Math.exp(value), 0)
  return row.map((value) => Math.exp(value) / sum)
}

/** Mean over positions that count of Σ p·ln(p/q). */
function klOf({ float, quantized, counts }: Sample): number {
  const kept = counts.flatMap((counted, t) => {
    if (!counted) return []
    const [p, q] = [softmax(float[t]!), softmax(quantized[t]!)]
    return p.reduce((sum, share, i) => sum + share * Math.log(share / q[i]!), 0)
  })
  return kept.length === 0 ? 0 : kept.reduce((a, b) => a + b, 0) / kept.length
}

function errorOf({ float, quantized, counts }: Sample): number {
  const used = counts.flatMap((counted, t) => (counted ? [t] : []))
  const sum = (of: (t: number, i: number) => number) =>
    used.reduce((all, t) => all + float[t]!.reduce((row, _, i) => row + of(t, i), 0), 0)
  return sum((t, i) => (float[t]![i]! - quantized[t]![i]!) ** 2) / sum((t, i) => float[t]![i]! ** 2)
}

/** Adds samples in batches of the sizes given. */
function fill(
  outputs: HeldOutOutputs,
  name: string,
  samples: readonly Sample[],
  sizes: readonly number[],
  rank: 2 | 3,
) {
  const { float: first } = samples[0]!
  let from = 0
  for (const size of sizes) {
    const own = samples.slice(from, from + size)
    const dims = rank === 3 ? [size, first.length, first[0]!.length] : [size, first[0]!.length]
    const tensor = (side: 'float' | 'quantized'): FeedTensor => ({
      type: 'float',
      dims,
      data: Float32Array.from(own.flatMap((sample) => sample[side].flat())),
    })
    const isPadded = own.some(({ counts }) => counts.includes(false)) || rank === 2
    const weights = isPadded
      ? Float32Array.from({ length: size * LENGTH }, (_, i) =>
          own[Math.floor(i / LENGTH)]!.counts[i % LENGTH] === false ? 0 : 1,
        )
      : undefined
    const numbers = Int32Array.from(own, (_, i) => 50 - from - i)
    outputs.add(name, { float: tensor('float'), quantized: tensor('quantized'), count: size, numbers, weights })
    from += size
  }
}

const SIZES = [3, 1, 3, 2]
const COUNT = 9
const close = (found: readonly number[], wanted: readonly number[]) => {
  expect(found).toHaveLength(wanted.length)
  for (const [i, value] of found.entries()) expect(Math.abs(value - wanted[i]!) / wanted[i]!).toBeLessThan(1e-5)
}

describe('losses of held-out samples', () => {
  const logits = draw(COUNT, LENGTH, CLASSES, 1)
  const hidden = draw(COUNT, LENGTH, 3, 2)
  const pooled = draw(COUNT, 1, 6, 3)

  it('are KL for scores, over tokens that count', () => {
    const outputs = new HeldOutOutputs()
    fill(outputs, 'logits', logits, SIZES, 3)
    close(outputs.losses(), logits.map(klOf))
  })

  it('are relative squared errors elsewhere, over tokens that count', () => {
    const outputs = new HeldOutOutputs()
    fill(outputs, 'hidden', hidden, SIZES, 3)
    close(outputs.losses(), hidden.map(errorOf))
  })

  it('of outputs without tokens take all of them', () => {
    const outputs = new HeldOutOutputs()
    fill(outputs, 'pooled', pooled, SIZES, 2)
    close(outputs.losses(), pooled.map(errorOf))
  })

  it('of several outputs are the mean, whatever the order', () => {
    const wanted = logits.map((sample, i) => (klOf(sample) + errorOf(hidden[i]!) + errorOf(pooled[i]!)) / 3)
    for (const order of [
      [0, 1, 2],
      [2, 1, 0],
    ]) {
      const outputs = new HeldOutOutputs()
      const all = [
        () => fill(outputs, 'logits', logits, SIZES, 3),
        () => fill(outputs, 'hidden', hidden, SIZES, 3),
        () => fill(outputs, 'pooled', pooled, SIZES, 2),
      ]
      for (const at of order) all[at]!()
      close(outputs.losses(), wanted)
    }
  })

  it('do not depend on the batches', () => {
    const losses = [[9], [1, 1, 1, 1, 1, 1, 1, 1, 1], [4, 5]].map((sizes) => {
      const outputs = new HeldOutOutputs()
      fill(outputs, 'hidden', hidden, sizes, 3)
      return outputs.losses()
    })
    for (const other of losses) close(other, losses[0]!)
  })

  it('are 0 for a sample of padding alone and for equal outputs, and none without samples', () => {
    const outputs = new HeldOutOutputs()
    expect(outputs.losses()).toEqual([])
    const nothing = { ...logits[0]!, counts: [false, false, false, false] }
    const equal = { ...logits[1]!, quantized: logits[1]!.float }
    fill(outputs, 'logits', [logits[2]!, nothing, equal], [3], 3)
    expect(outputs.losses()[1]).toBe(0)
    expect(outputs.losses()[2]).toBeCloseTo(0, 12)
    const numbers = new HeldOutOutputs()
    fill(numbers, 'hidden', [nothing, equal], [2], 3)
    expect(numbers.losses()).toEqual([0, 0])
  })

  it('are no number where the quantized network gives none', () => {
    const outputs = new HeldOutOutputs()
    const broken = { ...hidden[3]!, quantized: hidden[3]!.quantized.map((row) => row.map(() => Number.NaN)) }
    fill(outputs, 'hidden', [hidden[0]!, broken], [2], 3)
    const [fine, none] = outputs.losses()
    expect(fine).toBeGreaterThan(0)
    expect(Number.isFinite(none!)).toBe(false)
  })

  it('take equal infinities for equal, give an output without a batch axis to all samples, and leave whole numbers out', () => {
    const outputs = new HeldOutOutputs()
    const tensor = (dims: number[], ...data: number[]): FeedTensor => ({
      type: 'float',
      dims,
      data: Float32Array.from(data),
    })
    const batch = { count: 2, numbers: Int32Array.of(0, 1), weights: undefined }
    const masked = tensor([1, 3], Number.NEGATIVE_INFINITY, 2, 0)
    outputs.add('shared', { ...batch, float: masked, quantized: tensor([1, 3], Number.NEGATIVE_INFINITY, 1, 0) })
    outputs.add('own', { ...batch, float: tensor([2, 1], 2, 4), quantized: tensor([2, 1], 1, 4) })
    const classes = (...data: bigint[]): FeedTensor => ({ type: 'int64', dims: [2], data: BigInt64Array.from(data) })
    outputs.add('classes', { ...batch, float: classes(1n, 2n), quantized: classes(5n, 9n) })
    expect(outputs.losses()).toEqual([0.25, 0.125])
  })
})
