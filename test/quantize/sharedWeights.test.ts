/** A weight that several products read is fitted to what all of them read, with data and with saved statistics. */
import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import type { QuantizeConfig } from '../../src/config.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { encodeModel, makeValueInfo, type NodeProto, type TensorProto } from '../../src/onnx/proto.ts'
import { tensorBytes } from '../../src/onnx/tensorData.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { makeRandom } from '../../src/random.ts'
import { branch } from '../calibration/randomGraphs.ts'
import { makeNode, model } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { normals } from './roundTrip.ts'

const directory = useTempDir()
const at = (name: string) => path.join(directory, name)
const SIZE = 64
const SAMPLES = 60

/** Whole numbers, so that float32 sums of their products are exact, in any order; few hidden causes on one half of the channels. */
function samples(seed: number, half: 0 | 1): number[][] {
  const random = makeRandom(seed)
  const below = (n: number) => Math.floor(random.uniform() * n)
  return Array.from({ length: SAMPLES }, () => {
    const causes = Array.from({ length: 6 }, () => below(5) - 2)
    const isLoud = (c: number) => c < SIZE / 2 === (half === 0)
    return Array.from({ length: SIZE }, (_, c) => (isLoud(c) ? 3 * causes[(c * 5 + half) % 6]! : 0) + below(3) - 1)
  })
}

const [a, b] = [samples(1, 0), samples(2, 1)]

function save(
  name: string,
  inputs: readonly string[],
  node: NodeProto[],
  outputs: readonly string[],
  others: readonly TensorProto[] = [],
): string {
  const ends = {
    input: inputs.map((input) => makeValueInfo(input, 1, [undefined, SIZE])),
    output: outputs.map((output) => makeValueInfo(output, 1, [undefined, SIZE])),
  }
  const proto = model({ initializer: [normals('w', [SIZE, SIZE], 0.1), ...others], node, ...ends })
  fs.writeFileSync(at(name), encodeModel(proto))
  return at(name)
}

function lines(name: string, rows: readonly Record<string, readonly number[]>[]): string {
  fs.writeFileSync(at(name), rows.map((row) => JSON.stringify(row)).join('\n'))
  return at(name)
}

const product = (x: string, y: string) => makeNode('MatMul', [x, 'w'], [y], { name: y })
const towers = save('towers.onnx', ['a', 'b'], [product('a', 'ya'), product('b', 'yb')], ['ya', 'yb'])
const single = save('single.onnx', ['x'], [product('x', 'y')], ['y'])
const both = lines(
  'both.jsonl',
  a.map((row, i) => ({ a: row, b: b[i]! })),
)
const BASE = {
  bits: 3,
  groupSize: 32,
  format: 'standard',
  symmetric: 'no',
  threads: 1,
  verify: false,
  force: true,
} as const

const run = (source: string, out: string, config: Partial<QuantizeConfig>) =>
  quantizeModel(source, at(out), { ...BASE, ...(config.data ? { holdout: 0, samples: 0 } : {}), ...config })

/** Bytes of all stored tensors. */
function tensorsOf(out: string): string[] {
  const written = loadModel(at(out))
  return written.proto
    .graph!.initializer.map((tensor) => Buffer.from(tensorBytes(written, tensor)).toString('base64'))
    .sort()
}

/** Σ‖W x − Ŵ x‖² of a model with one product, Ŵ as onnxruntime computes with it. */
async function objective(out: string, rows: readonly (readonly number[])[], output: string): Promise<number> {
  const compute = async (file: string) => {
    const session = await ort.InferenceSession.create(file, { logSeverityLevel: 4, intraOpNumThreads: 1 })
    const feeds = Object.fromEntries(
      session.inputNames.map((name) => [
        name,
        new ort.Tensor('float32', Float32Array.from(rows.flat()), [rows.length, SIZE]),
      ]),
    )
    const results = await session.run(feeds)
    await session.release()
    return results
  }
  const float = (await compute(single)).y!.data as Float32Array
  const quantized = (await compute(at(out)))[output]!.data as Float32Array
  return float.reduce((sum, v, i) => sum + (v - quantized[i]!) ** 2, 0)
}

describe('a weight that two products read', () => {
  it('has the codes of one product that reads both inputs one after the other', async () => {
    const report = await run(towers, 'towers.q.onnx', { data: [both] })
    expect(report.calibration!.notes.join()).not.toContain('some readers')
    expect(report.calibration).toMatchObject({ positions: SAMPLES, groups: 1 })
    expect(report.layers[0]!.calibration!.solver).toBe('gptq')
    const joined = lines(
      'joined.jsonl',
      [...a, ...b].map((x) => ({ x })),
    )
    // Saved statistics, so that both are judged by them.
    const stats = [at('joined.stats')]
    await run(single, 'first.onnx', { data: [joined], stats })
    await run(single, 'joined.q.onnx', { stats })
    expect(tensorsOf('towers.q.onnx')).toEqual(tensorsOf('joined.q.onnx'))
  })

  it('has less error over both than one that is fitted to either, or rounded', async () => {
    await run(towers, 'towers.q.onnx', { data: [both] })
    const sumOf = async (out: string, outputs: readonly [string, string]) =>
      (await objective(out, a, outputs[0])) + (await objective(out, b, outputs[1]))
    const error = await sumOf('towers.q.onnx', ['ya', 'yb'])
    for (const [name, rows] of [
      ['a', a],
      ['b', b],
    ] as const) {
      const data = lines(
        `${name}.jsonl`,
        rows.map((x) => ({ x })),
      )
      await run(single, `${name}.onnx`, { data: [data] })
      expect(error / (await sumOf(`${name}.onnx`, ['y', 'y'])), name).toBeLessThan(0.7)
    }
    await run(single, 'rtn.onnx', { method: 'rtn' })
    expect(error / (await sumOf('rtn.onnx', ['y', 'y']))).toBeLessThan(0.3)
  })

  it('has the same codes from saved statistics, which are of each input', async () => {
    const stats = [at('towers.stats')]
    await run(towers, 'towers.q.onnx', { data: [both], stats })
    const report = await run(towers, 'again.onnx', { stats })
    expect(report.calibration).toMatchObject({ positions: SAMPLES, groups: 1, notes: [] })
    expect(tensorsOf('again.onnx')).toEqual(tensorsOf('towers.q.onnx'))
  })
})

it('layers that all share one weight are fitted to the inputs of all, beside one of their own', async () => {
  const node = [product('x', 'p0'), makeNode('Tanh', ['p0'], ['h0'])]
  for (const i of [1, 2, 3]) node.push(product(`h${i - 1}`, `p${i}`), makeNode('Tanh', [`p${i}`], [`h${i}`]))
  node.push(makeNode('MatMul', ['h3', 'head'], ['y'], { name: 'head' }))
  const file = save('shared.onnx', ['x'], node, ['y'], [normals('head', [SIZE, SIZE], 0.2)])
  const data = [
    lines(
      'x.jsonl',
      a.map((x) => ({ x })),
    ),
  ]
  const stats = [at('shared.stats')]
  const report = await run(file, 'shared.q.onnx', { data, stats, holdout: 0.2 })
  expect(report.calibration).toMatchObject({ positions: 48, groups: 2, stages: 3, notes: [] })
  for (const { calibration } of report.layers) {
    expect(calibration!.heldOutError).toBeLessThan(0.6 * calibration!.heldOutErrorOfRounding!)
  }
  // Only the layer of its own sees the drift.
  expect(report.layers.map(({ calibration }) => calibration!.alpha > 0)).toEqual([false, true])
  expect((await run(file, 'again.onnx', { stats })).calibration).toMatchObject({ positions: 48, groups: 2, notes: [] })
})

it('readers without statistics are left out, and a note says which', async () => {
  const node = [
    product('x', 'h'),
    makeNode('ReduceMax', ['h'], ['most'], { attributes: { keepdims: 0 } }),
    makeNode('Greater', ['most', 'most'], ['never']),
    branch('never', 'y', 'h', 'most', 'h'),
  ]
  const inner = node[3]!.attribute[0]!.g!
  inner.node = [makeNode('MatMul', ['h', 'w'], [inner.output[0]!.name], { name: 'inside' })]
  const file = save('branch.onnx', ['x'], node, ['y'])
  const data = [
    lines(
      'x.jsonl',
      a.map((x) => ({ x })),
    ),
  ]
  const { calibration, layers } = await run(file, 'branch.q.onnx', { data, dryRun: true })
  expect(layers[0]!.calibration!.solver).toBe('gptq')
  expect(calibration!.notes).toContain(
    'h is fitted to the inputs of some readers only; left out: the MatMul that reads it is in the body of an If, Loop or Scan',
  )
})
