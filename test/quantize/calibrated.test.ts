/** What calibration is for: the written file, run by onnxruntime on inputs that no run has seen, is nearer to the float model. */
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { quantizeModel } from '../../src/pipeline.ts'
import type { QuantizeReport } from '../../src/report.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { MODELS, outputsOf, relativeError, smallModel, writeCase } from './calibratedModels.ts'

const directory = useTempDir()

const storedBytes = ({ layers }: QuantizeReport) => layers.map(({ storedBytes }) => storedBytes)

describe.each(MODELS)('$name', (model) => {
  const { folder, model: source, data } = writeCase(directory, model)
  const fresh = model.draw(100, 999)
  const reference = outputsOf(source, model, fresh)
  const out = path.join(folder, 'out.onnx')

  it.each([
    ['contrib', 3],
    ['contrib', 4],
    ['standard', 3],
    ['standard', 4],
  ] as const)('%s at %i bits: better than rounding onto the same grids, in as many bytes', async (format, bits) => {
    const run = async (method: 'rtn' | 'auto' | 'gptq') => {
      const shared = { bits, groupSize: 32, format, symmetric: 'no', force: true, threads: 1 } as const
      const config = { ...shared, method, verify: method === 'gptq' }
      const report = await quantizeModel(source, out, method === 'gptq' ? { ...config, data: [data] } : config)
      return { report, error: relativeError(await reference, await outputsOf(out, model, fresh)) }
    }
    const calibrated = await run('gptq')
    for (const method of ['rtn', 'auto'] as const) {
      const rounded = await run(method)
      expect(storedBytes(calibrated.report)).toEqual(storedBytes(rounded.report))
      // Of the If only the layer before it is calibrated.
      expect(calibrated.error / rounded.error, method).toBeLessThan(model.name === 'If' ? 0.65 : 0.45)
    }
    const { layers, calibration } = calibrated.report
    expect(calibration).toMatchObject({ source: data, samples: 120, heldOut: 24 })
    for (const { calibration: own, weight } of layers) {
      if (weight.endsWith('_result')) expect(own, weight).toBeUndefined()
      else {
        expect(own!.rejected.length, weight).toBeGreaterThan(0)
        expect(own!.heldOutError, weight).toBeLessThanOrEqual(own!.heldOutErrorOfRounding!)
        expect(own!.solver, weight).toBe('gptq')
        for (const { heldOutError } of own!.rejected) expect(heldOutError).toBeGreaterThanOrEqual(0)
      }
    }
    expect(layers.filter(({ calibration: own }) => own)).toHaveLength(model.name === 'If' ? 1 : layers.length)
  })
})

describe('layers that calibration does not reach', () => {
  it('are rounded, and a note says how many and why', async () => {
    const { model, data, folder } = writeCase(directory, smallModel('If'))
    const report = await quantizeModel(model, path.join(folder, 'out.onnx'), { bits: 4, data: [data], threads: 1 })
    expect(report.calibration!.notes).toContain(
      '2 layers quantized without calibration: lies in a subgraph or function',
    )
    expect(report.layers.filter(({ calibration }) => !calibration).map(({ weight }) => weight)).toEqual([
      'w_then_result',
      'w_else_result',
    ])
  })
})
