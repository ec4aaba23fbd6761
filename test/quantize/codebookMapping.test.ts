/** The mapping of codebooks from the option to the file, and what the report says where it is not taken. */
import fs from 'node:fs'
import path from 'node:path'
import { expect, it } from 'vitest'
import { fixturePath } from '../../fixtures/generate.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { METADATA } from '../../src/onnx/metadata.ts'
import { quantizeModel } from '../../src/pipeline.ts'
import { otherMapping } from '../../src/quantize/layerGroups.ts'
import { makeRandom } from '../../src/random.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { writeNpy } from '../oracles/npy.ts'

const directory = useTempDir()
const data = path.join(directory, 'data.npy')
const random = makeRandom(1)
const mean = Array.from({ length: 64 }, () => random.normal())
fs.writeFileSync(
  data,
  writeNpy(
    'f4',
    [40, 64],
    Array.from({ length: 40 * 64 }, (_, i) => mean[i % 64]! + random.normal()),
  ),
)
const stats = path.join(directory, 'stats')

async function quantize(config: Partial<QuantizeConfig>) {
  const out = path.join(directory, 'out.onnx')
  const method = { method: 'codebook', codebook: 'jlcm', rowGroups: 1, bits: 2 } as const
  const { layers, calibration } = await quantizeModel(fixturePath('matmul'), out, {
    ...{ ...method, threads: 1, force: true, verify: false, ...config },
  })
  const { metadataProps } = loadModel(out).proto
  const said = JSON.parse(metadataProps.find(({ key }) => key === METADATA.config)!.value) as QuantizeConfig
  return { layers, notes: calibration!.notes, mapping: said.mapping }
}

it('reaches the solver, with data and with statistics', async () => {
  const runs = []
  for (const mapping of ['descent', 'proximal', 'softmax'] as const) {
    runs.push([
      mapping,
      await quantize({ data: [data], stats: mapping === 'descent' ? [stats] : [], mapping }),
    ] as const)
    runs.push([mapping, await quantize({ stats: [stats], mapping })] as const)
  }
  const errors = new Set<number>()
  for (const [mapping, run] of runs) {
    expect(run.mapping).toBe(mapping)
    expect(run.notes.join()).not.toContain('mapping')
    for (const { calibration } of run.layers) {
      expect(calibration!.heldOutError!).toBeLessThanOrEqual(calibration!.heldOutErrorOfRounding!)
    }
    errors.add(run.layers[0]!.relativeError)
  }
  expect(errors.size).toBe(6)
})

it('is named where a layer is too large for it', () => {
  const form = { coding: { kind: 'scalar' }, tables: 1, shared: false, permuted: false } as const
  const plan = (weights: number, codebook?: typeof form) =>
    ({ bits: 4, groupSize: 32, codebook, layer: { weights } }) as never
  const plans = [plan(2 ** 20, form), plan(2 ** 20 + 1, form), plan(2 ** 30)]
  expect(otherMapping(plans, 'proximal')).toEqual(['1 layer is too large for mapping proximal: descent instead'])
  expect(otherMapping([...plans, plan(2 ** 22, form)], 'softmax')).toEqual([
    '2 layers are too large for mapping softmax: descent instead',
  ])
  expect(otherMapping(plans, 'descent')).toEqual([])
})
