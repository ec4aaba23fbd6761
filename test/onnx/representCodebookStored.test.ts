/** The tensors that a codebook weight takes in the file, to the byte. */
import { describe, expect, it } from 'vitest'
import { QUANTIZE_DEFAULTS } from '../../src/config.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { DataType, makeNode, makeTensor } from '../../src/onnx/proto.ts'
import { packLayer } from '../../src/onnx/represent/packLayer.ts'
import { planLayer, type Target } from '../../src/onnx/represent/plan.ts'
import { storedBytes, storedTensors } from '../../src/onnx/represent/stored.ts'
import { buildOutput, plannedLayer } from '../../src/quantize/buildOutput.ts'
import { model, value } from '../helpers/smallModels.ts'
import { type Form, one, planFor, randomWeight, scalar, source, tensorBytes, write } from './codebookModels.ts'

describe('what is stored', () => {
  const plan = (form: Form, rows: number, cols: number) =>
    planFor(source('MatMul', rows, cols, DataType.FLOAT), form, 'channel', {
      format: 'auto',
      opset: 18,
      accuracyLevel: 4,
    })
  const bytesOf = (form: Form, rows: number, cols: number) => storedBytes(plan(form, rows, cols), true, 'float16')

  it('is the indices, one scale a row and the tables', () => {
    const n = 256
    const k = 96
    const scales = 2 * n
    for (const bits of [2, 3, 4] as const) {
      const indices = (n * k * bits) / 8
      expect(bytesOf({ bits, form: scalar(1) }, n, k)).toBe(indices + scales + 2 ** bits)
      expect(bytesOf({ bits, form: scalar(4) }, n, k)).toBe(indices + scales + 4 * 2 ** bits + n)
      expect(bytesOf({ bits, form: scalar(4, true) }, n, k)).toBe(indices + scales + 4 * 2 ** bits + n)
      expect(bytesOf({ bits, form: scalar(n) }, n, k)).toBe(indices + scales + n * 2 ** bits)
      expect(bytesOf({ bits, form: one({ kind: 'trellis', window: 12 }, true) }, n, k)).toBe(indices + scales)
      expect(bytesOf({ bits, form: one({ kind: 'trellis', window: 8 }) }, n, k)).toBe(indices + scales + 256)
    }
    expect(bytesOf({ bits: 2, form: one({ kind: 'vector', dim: 4 }) }, n, k)).toBe((n * k) / 4 + scales + 1024)
    expect(bytesOf({ bits: 4, form: one({ kind: 'vector', dim: 2 }) }, n, k)).toBe((n * k) / 2 + scales + 512)
    // 300 rows are 100 steps of 3 lanes: 200 bits are 25 bytes, and columns are not filled up.
    expect(bytesOf({ bits: 2, form: one({ kind: 'trellis', window: 8 }, true) }, 300, 77)).toBe(25 * 3 * 77 + 600)
  })

  it('has a shared table once, and another one as well', () => {
    const form: Form = { bits: 2, form: one({ kind: 'trellis', window: 12 }, true) }
    const proto = model({
      node: [1, 2, 3].map((i) => makeNode('MatMul', ['x', `w${i}`], [`y${i}`])),
      initializer: [1, 2, 3].map((i) =>
        makeTensor({ name: `w${i}`, dataType: DataType.FLOAT, dims: [16n, 40n], rawData: new Uint8Array(4 * 640) }),
      ),
      input: [value('x', [1, 16])],
      output: [1, 2, 3].map((i) => value(`y${i}`, [1, 40])),
    })
    const target: Target = { format: 'auto', opset: 18, accuracyLevel: 0 }
    const plans = modelLayers(proto).layers.map((layer) =>
      planLayer(layer, { bits: 2, groupSize: 'channel', symmetric: 'auto', codebook: form.form }, target),
    )
    const tablesIn = (built: OnnxModel) => built.proto.graph!.initializer.filter(({ dims }) => dims.join() === '4096')
    const same = plans.map((each) => ({ plan: each, weight: randomWeight(each) }))
    expect(tablesIn(write(proto, same, target))).toHaveLength(1)
    const other = { plan: plans[2]!, weight: randomWeight(plans[2]!, 2) }
    expect(tablesIn(write(proto, [...same.slice(0, 2), other], target))).toHaveLength(2)

    // A dry run, which has no contents, plans the same bytes.
    const files: OnnxModel = { path: 'm.onnx', proto, payloads: new Map(), files: [] }
    const dry = buildOutput(
      files,
      plans.map((each) => plannedLayer(each, true)),
      [],
      target,
      QUANTIZE_DEFAULTS,
      { version: 'test', sha256: ['0'] },
    ).model
    expect(tablesIn(dry).map((tensor) => dry.payloads.get(tensor)?.byteLength)).toEqual([4096])
    expect(tensorBytes(dry)).toBe(tensorBytes(write(proto, same, target)))
  })

  it('is a grid with a note where a form cannot be written', () => {
    const proto = source('MatMul', 40, 32, DataType.FLOAT)
    const target: Target = { format: 'auto', opset: 10, accuracyLevel: 4 }
    for (const [form, opset, note] of [
      [{ bits: 2, form: one({ kind: 'trellis', window: 8 }, true) }, 10, 'needs 11'],
      [{ bits: 3, form: scalar(40) }, 17, 'needs 18'],
      [{ bits: 3, form: one({ kind: 'vector', dim: 4 }) }, 18, '2 bits a weight, not 3'],
    ] as const) {
      const made = planFor(proto, form, 'channel', { ...target, opset })
      expect(made.codebook).toBeUndefined()
      expect(made.storage).not.toBe('indices')
      expect(made.notes[0]).toContain(note)
    }
  })

  it('must be what was planned', () => {
    const made = plan({ bits: 2, form: scalar(3) }, 40, 32)
    expect(() => packLayer(plan({ bits: 2, form: scalar(1) }, 40, 32), randomWeight(made))).toThrow(RangeError)
    expect(() => packLayer(plan({ bits: 3, form: scalar(3) }, 40, 32), randomWeight(made))).toThrow(RangeError)
    expect(() => packLayer(made, { ...randomWeight(made), groupSize: 31 })).toThrow('planned')
    expect(storedTensors(made, true, 'float32').map(({ role }) => role)).toEqual([
      'codes',
      'tables',
      'tableOf',
      'scales',
    ])
  })
})
