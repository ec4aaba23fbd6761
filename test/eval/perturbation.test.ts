import { describe, expect, it } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { OutputLoss, summarize } from '../../src/eval/outputLoss.ts'
import { OutputPerturbation } from '../../src/eval/perturbation.ts'
import { makeRandom } from '../../src/random.ts'
import { softmax } from '../oracles/metricsOracle.ts'
import { normalTensor, tensor } from './models.ts'

const CLASSES = 6
const WEIGHTS = Float32Array.of(1, 1, 0, 1, 1, 1)
const BATCHES = [2, 4]

/** Two batches of two samples with padding: logits [2, 3, 6], an embedding [2, 5], and one vector for the batch. */
const references = new Map(
  BATCHES.map((batch) => [
    batch,
    new Map([
      ['logits', normalTensor([2, 3, CLASSES], batch)],
      ['embedding', normalTensor([2, 5], 10 + batch)],
      ['whole', normalTensor([7], 20 + batch)],
    ]),
  ]),
)

function makeLoss(): OutputLoss {
  const loss = new OutputLoss(['logits'])
  for (const [batch, outputs] of references) {
    for (const [name, value] of outputs) loss.addReference(batch, name, value, { count: 2, weights: WEIGHTS })
  }
  return loss
}

/** Directions of change as numerous as the outputs' numbers. */
const directionOf = (seed: number) =>
  new Map(
    [...references].map(([batch, outputs]) => {
      const directions = [...outputs].map(
        ([name, { dims }], i) => [name, normalTensor(dims, seed + 100 * batch + i)] as const,
      )
      return [batch, new Map(directions)]
    }),
  )

type Outputs = ReturnType<typeof directionOf>

/** The references, moved by ε in a direction, in float64 so that a small ε is not rounded away. */
function moved(direction: Outputs, epsilon: number): Map<number, Map<string, FeedTensor>> {
  return new Map(
    [...references].map(([batch, outputs]) => {
      const tensors = [...outputs].map(([name, { dims, data }]) => {
        const step = direction.get(batch)!.get(name)!.data
        const values = Float64Array.from(data as Float32Array, (x, i) => x + epsilon * Number(step[i]))
        return [name, tensor('double', dims, values)] as const
      })
      return [batch, new Map(tensors)]
    }),
  )
}

function sketchOf(
  perturbation: OutputPerturbation,
  outputs: ReadonlyMap<number, ReadonlyMap<string, FeedTensor>>,
): Float32Array {
  const sketch = new Float32Array(perturbation.size)
  for (const [batch, tensors] of outputs) perturbation.addInPlace(batch, tensors, sketch)
  return sketch
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>) => Array.from(a).reduce((sum, x, i) => sum + x * b[i]!, 0)

/** The cross term by matrices: Σ over rows of Δaᵀ (diag p − p pᵀ) Δb / rows, and 2 Δa·Δb / norm for the rest. */
function innerProduct(loss: OutputLoss, a: Outputs, b: Outputs): number {
  let total = 0
  for (const [batch, outputs] of references) {
    const [x, y] = [a.get(batch)!, b.get(batch)!]
    const logits = Array.from(outputs.get('logits')!.data as Float32Array)
    for (let row = 0; row < 6; row++) {
      if (WEIGHTS[row] === 0) continue
      const at = row * CLASSES
      const p = softmax(logits.slice(at, at + CLASSES))
      const dx = Array.from({ length: CLASSES }, (_, i) => Number(x.get('logits')!.data[at + i]))
      const dy = Array.from({ length: CLASSES }, (_, i) => Number(y.get('logits')!.data[at + i]))
      let metric = 0
      for (let i = 0; i < CLASSES; i++) {
        for (let j = 0; j < CLASSES; j++) metric += dx[i]! * ((i === j ? p[i]! : 0) - p[i]! * p[j]!) * dy[j]!
      }
      total += metric / (row < 3 ? 2 : 3)
    }
    for (const output of loss.reference.compared(batch).filter(({ kind }) => kind === 'numbers')) {
      const [u, v] = [x.get(output.name)!.data, y.get(output.name)!.data]
      const isWhole = output.name === 'whole'
      for (let i = 0; i < u.length; i++) {
        const sample = isWhole ? 0 : Math.floor(i / 5)
        total += ((isWhole ? 2 : 1) * 2 * Number(u[i]) * Number(v[i])) / loss.reference.normOf(output, sample)
      }
    }
  }
  // 4 samples, 3 outputs.
  return total / 4 / 3
}

const SIZE = 128

describe('the perturbation', () => {
  const loss = makeLoss()
  const perturbation = new OutputPerturbation(loss.reference, SIZE, 1)
  const direction = directionOf(1)

  it('has half its squared norm equal to the loss, the nearer the smaller the change', () => {
    const misses = (epsilon: number) =>
      [1, 2, 3, 4, 5].map((seed) => {
        const outputs = moved(directionOf(seed), epsilon)
        const losses = BATCHES.flatMap((batch) => [...loss.compare(batch, outputs.get(batch)!)])
        const u = sketchOf(perturbation, outputs)
        return Math.abs(dot(u, u) / 2 / summarize(losses).mean - 1)
      })
    expect(perturbation.isExact).toBe(true)
    const [large, middle, small] = [1, 0.1, 0.01].map((epsilon) => Math.max(...misses(epsilon)))
    expect(large).toBeGreaterThan(0.002)
    expect(middle! / large!).toBeLessThan(0.5)
    expect(small! / middle!).toBeLessThan(0.2)
    expect(small).toBeLessThan(1e-3)
  })

  it('has the inner products of the Fisher metric', () => {
    const other = directionOf(2)
    const [u, v] = [direction, other].map((d) => sketchOf(perturbation, moved(d, 1)))
    // The change of logits is not small: the metric at the reference is exact all the same.
    expect(dot(u!, v!)).toBeCloseTo(innerProduct(loss, direction, other), 5)
    expect(dot(u!, u!)).toBeCloseTo(innerProduct(loss, direction, direction), 5)
  })

  it('is zero for the reference itself and for what is left out', () => {
    expect(Math.max(...sketchOf(perturbation, moved(direction, 0)).map(Math.abs))).toBeLessThan(1e-7)
    const only = new Map([[2, new Map([['whole', tensor('double', [7], new Float64Array(7))]])]])
    expect(sketchOf(perturbation, only).filter((x) => x !== 0)).toHaveLength(7)
  })

  it('is the same for probabilities as for their logits', () => {
    const logits = references.get(2)!.get('logits')!
    const asProbabilities = (from: FeedTensor) => {
      const data = Array.from(from.data as Float64Array)
      const rows = Array.from({ length: 6 }, (_, row) => softmax(data.slice(row * CLASSES, (row + 1) * CLASSES)))
      return tensor('double', from.dims, Float64Array.from(rows.flat()))
    }
    const facts = { count: 2, weights: undefined }
    const a = new OutputLoss(['y'])
    a.addReference(0, 'y', logits, facts)
    const b = new OutputLoss('auto')
    b.addReference(0, 'y', asProbabilities(logits), facts)
    const candidate = moved(direction, 0.3).get(2)!.get('logits')!
    const u = sketchOf(new OutputPerturbation(a.reference, 64, 1), new Map([[0, new Map([['y', candidate]])]]))
    const v = sketchOf(
      new OutputPerturbation(b.reference, 64, 1),
      new Map([[0, new Map([['y', asProbabilities(candidate)]])]]),
    )
    expect(Math.max(...u.map((x, i) => Math.abs(x - v[i]!)))).toBeLessThan(1e-6)
    expect(dot(u, u)).toBeGreaterThan(1e-3)
  })

  it('refuses integers, unknown names and sketches of another size', () => {
    const ids = new OutputLoss('auto')
    ids.addReference(0, 'ids', tensor('int32', [1], Int32Array.of(1)), { count: 1, weights: undefined })
    expect(() => new OutputPerturbation(ids.reference, 8, 1)).toThrow(expect.objectContaining({ code: 'model' }))
    expect(() => perturbation.addInPlace(2, new Map(), new Float32Array(8))).toThrow(RangeError)
    expect(() => perturbation.addInPlace(2, new Map([['x', normalTensor([1], 1)]]), new Float32Array(SIZE))).toThrow(
      RangeError,
    )
    expect(() => perturbation.addInPlace(3, new Map(), new Float32Array(SIZE))).toThrow(RangeError)
  })
})

describe('sketches', () => {
  const loss = makeLoss()
  const [a, b] = [moved(directionOf(1), 1), moved(directionOf(2), 1)]
  const exact = new OutputPerturbation(loss.reference, SIZE, 1)
  const [x, y] = [sketchOf(exact, a), sketchOf(exact, b)]

  it('have inner products that are unbiased over seeds, with the variance of the theory', () => {
    const size = 8
    const seeds = 2000
    const estimates = Array.from({ length: seeds }, (_, seed) => {
      const perturbation = new OutputPerturbation(loss.reference, size, seed)
      return dot(sketchOf(perturbation, a), sketchOf(perturbation, b))
    })
    const mean = estimates.reduce((p, q) => p + q, 0) / seeds
    const variance = estimates.reduce((p, q) => p + (q - mean) ** 2, 0) / (seeds - 1)
    const squares =
      2 *
      dot(
        x.map((v) => v * v),
        y.map((v) => v * v),
      )
    const theory = (dot(x, x) * dot(y, y) + dot(x, y) ** 2 - squares) / size
    expect(Math.abs(mean - dot(x, y))).toBeLessThan(4 * Math.sqrt(theory / seeds))
    expect(variance / theory).toBeGreaterThan(0.85)
    expect(variance / theory).toBeLessThan(1.15)
  })

  it('are unbiased where all values move one way', () => {
    // Buckets without signs would add up to far more.
    const raised = new Map(
      [...references].map(([batch, outputs]) => [
        batch,
        new Map(
          [...outputs].map(([name, from]) => [
            name,
            { ...from, data: Float32Array.from(from.data as Float32Array, (value) => value + 1) },
          ]),
        ),
      ]),
    )
    const whole = sketchOf(exact, raised)
    const estimates = Array.from({ length: 500 }, (_, seed) => {
      const u = sketchOf(new OutputPerturbation(loss.reference, 8, seed), raised)
      return dot(u, u) / dot(whole, whole)
    })
    const mean = estimates.reduce((p, q) => p + q, 0) / estimates.length
    expect(Math.abs(mean - 1)).toBeLessThan(4 * Math.sqrt(2 / 8 / estimates.length))
  })

  it('keep that variance when all rows change alike, which weaker hashes do not', () => {
    const [rows, classes, size, seeds] = [64, 32, 16, 300]
    const reference = tensor('float', [rows, 1, classes], new Float32Array(rows * classes))
    const wide = new OutputLoss(['y'])
    wide.addReference(0, 'y', reference, { count: rows, weights: undefined })
    const random = makeRandom(3)
    const row = Float32Array.from({ length: classes }, () => random.normal())
    const alike = { ...reference, data: Float32Array.from({ length: rows * classes }, (_, i) => row[i % classes]!) }
    const outputs = new Map([[0, new Map([['y', alike]])]])
    const whole = sketchOf(new OutputPerturbation(wide.reference, rows * classes, 1), outputs)
    const estimates = Array.from({ length: seeds }, (_, seed) => {
      const u = sketchOf(new OutputPerturbation(wide.reference, size, seed), outputs)
      return dot(u, u) / dot(whole, whole)
    })
    const variance = estimates.reduce((sum, value) => sum + (value - 1) ** 2, 0) / seeds
    expect(variance / (2 / size)).toBeLessThan(1.4)
    expect(variance / (2 / size)).toBeGreaterThan(0.7)
  })

  it('are the same for the same seed, whatever the order of the batches, and others for another', () => {
    const one = new OutputPerturbation(loss.reference, 16, 5)
    const again = new OutputPerturbation(makeLoss().reference, 16, 5)
    const other = new OutputPerturbation(loss.reference, 16, 6)
    const reversed = new Map([...a].reverse())
    const [first, second] = [sketchOf(one, a), sketchOf(again, reversed)]
    for (let i = 0; i < 16; i++) expect(second[i]).toBeCloseTo(first[i]!, 6)
    expect(sketchOf(again, a)).toEqual(first)
    expect(sketchOf(other, a)).not.toEqual(first)
  })
})
