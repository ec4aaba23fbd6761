/** Rows of a table one after the other: what onnxruntime computes from the ends of the runs, and the bytes that they save. */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { DataType, decodeModel, encodeModel } from '../../src/onnx/proto.ts'
import { runsBytes, runsPay } from '../../src/onnx/represent/codebookForm.ts'
import { packLayer } from '../../src/onnx/represent/packLayer.ts'
import type { Target } from '../../src/onnx/represent/plan.ts'
import { storedBytes, storedTensors } from '../../src/onnx/represent/stored.ts'
import type { CodebookForm } from '../../src/quant/codebookWeight.ts'
import {
  check,
  definition,
  expectedOutputs,
  feedsFor,
  firstDifference,
  outputs,
  planFor,
  randomWeight,
  scalar,
  source,
  tensorBytes,
  write,
} from './codebookModels.ts'

const withRuns = (...runs: number[]): CodebookForm => ({ ...scalar(runs.length), runs })
const target: Target = { format: 'auto', opset: 18, accuracyLevel: 0 }

describe('runs of rows', () => {
  const forms = [withRuns(1, 11), withRuns(5, 1, 6), withRuns(12), withRuns(...new Array<number>(12).fill(1))]
  it.each([2, 3, 4] as const)('at %i bits: the tables of the rows, in every product', async (bits) => {
    for (const form of forms) {
      await check({ bits, form }, 'MatMul', [12, 40], { groupSize: 16 })
      await check({ bits, form }, 'Gemm', [12, 24])
      await check({ bits, form }, 'Conv', [12, 24])
    }
  })

  it('in standard operators', async () => {
    for (const bits of [2, 3] as const) {
      for (const form of forms) await check({ bits, form }, 'MatMul', [12, 40], { format: 'standard' })
    }
  })

  it('before axes were inputs', async () => {
    const proto = source('Gemm', 12, 24, DataType.FLOAT)
    proto.opsetImport[0]!.version = 12n
    for (const form of forms) {
      const plan = planFor(proto, { bits: 4, form }, 'channel', { ...target, opset: 12 })
      const weight = randomWeight(plan)
      const built = write(proto, [{ plan, weight }], { ...target, opset: 12 })
      expect(built.proto.opsetImport[0]!.version).toBe(12n)
      const found = await outputs(built, feedsFor('Gemm', 12, 24), 0)
      const { y } = expectedOutputs('Gemm', 12, 24, definition(weight))
      expect(firstDifference(found.y!, y!)).toBe('none')
    }
  })

  it('are stored in place of an index for each row', () => {
    for (const bits of [2, 3, 4] as const) {
      const proto = source('MatMul', 12, 40, DataType.FLOAT)
      const made = (form: CodebookForm) => planFor(proto, { bits, form }, 'channel', target)
      const [runs, indices] = [made(withRuns(4, 8)), made(scalar(2))]
      expect(storedBytes(runs, true, 'float16')).toBe(storedBytes(indices, true, 'float16') - 12)
      expect(storedTensors(runs, true, 'float16').map(({ role }) => role)).not.toContain('tableOf')
      const built = write(proto, [{ plan: runs, weight: randomWeight(runs) }], target)
      expect(tensorBytes(built)).toBe(storedBytes(runs, true, 'float16'))
    }
  })

  it('cost about as many bytes of nodes as is said', () => {
    const bytesOf = (form: CodebookForm, bits: 2 | 3 | 4) => {
      const proto = source('MatMul', 640, 8, DataType.FLOAT)
      const plan = planFor(proto, { bits, form }, 'channel', target)
      return encodeModel(write(proto, [{ plan, weight: randomWeight(plan) }], target).proto).length
    }
    for (const bits of [2, 3, 4] as const) {
      for (const runs of [[300, 340], [100, 200, 200, 140], new Array<number>(16).fill(40)]) {
        const more = bytesOf(withRuns(...runs), bits) - (bytesOf(scalar(runs.length), bits) - 640)
        expect(more).toBeGreaterThan(0)
        expect(more).toBeLessThanOrEqual(runsBytes(runs.length))
        expect(runsBytes(runs.length)).toBeLessThan(more + 80)
      }
    }
  })

  it('are worth it from as many rows on', () => {
    expect([runsPay(1, 1e6), runsPay(2, 100), runsPay(2, 101), runsPay(16, 352), runsPay(16, 353)]).toEqual(
      [false, false, true, false, true], // 92 + 8 and 232 + 15 · 8 bytes.
    )
  })

  it('leave nothing of themselves in the loaded model', async () => {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'runs-'))
    const loaded = path.join(directory, 'loaded.onnx')
    const proto = source('MatMul', 12, 40, DataType.FLOAT)
    for (const bits of [3, 4] as const) {
      const plan = planFor(proto, { bits, form: withRuns(4, 3, 5) }, 'channel', target)
      const built = write(proto, [{ plan, weight: randomWeight(plan) }], target)
      await outputs(built, feedsFor('MatMul', 12, 40), undefined, loaded)
      const { graph } = decodeModel(fs.readFileSync(loaded))
      expect(graph!.node.map(({ opType }) => opType)).not.toContain('CumSum')
      expect(graph!.node.filter(({ opType }) => opType === 'MatMulNBits')).toHaveLength(1)
      expect(graph!.node.length).toBeLessThanOrEqual(3)
    }
    fs.rmSync(directory, { recursive: true })
  })

  it('refuses rows that lie elsewhere, and runs that are not of the layer', () => {
    const proto = source('MatMul', 12, 40, DataType.FLOAT)
    const plan = planFor(proto, { bits: 4, form: withRuns(4, 8) }, 'channel', target)
    const weight = { ...randomWeight(plan), tableOf: Uint16Array.from({ length: 12 }, (_, n) => (n < 5 ? 0 : 1)) }
    expect(() => packLayer(plan, weight)).toThrow(RangeError)
    const planned =
      (form: CodebookForm, graph: 'MatMul' | 'Gather' = 'MatMul') =>
      () =>
        planFor(source(graph, 12, 40, DataType.FLOAT), { bits: 4, form }, 'channel', target)
    expect(planned(withRuns(4, 7))).toThrow(RangeError)
    expect(planned(withRuns(0, 12))).toThrow(RangeError)
    expect(planned({ ...withRuns(4, 8), tables: 3 })).toThrow(RangeError)
    expect(planned(withRuns(4, 8), 'Gather')).toThrow(RangeError)
  })
})
