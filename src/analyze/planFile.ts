/** @file `--plan FILE` and `--save-plan FILE`: an allocation as JSON that a person can read and edit. */
import fs from 'node:fs'
import type { QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import type { Layers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { whyNoCodebook } from '../onnx/represent/codebookForm.ts'
import type { LayerChoice } from '../onnx/represent/plan.ts'
import { writeTextFile } from '../onnx/textFile.ts'
import type { CodebookForm } from '../quant/codebookWeight.ts'
import { BITS, type Bits } from '../quant/quantizedWeight.ts'
import { onGrid } from '../quantize/planLayers.ts'
import { freedomOf, type ModelPlan } from '../quantize/planModel.ts'
import { formIn, formOf, writtenForm } from './codebookField.ts'
import { Field } from './field.ts'

const KIND = 'plan'
const GROUP_SIZES: readonly unknown[] = [16, 32, 64, 128, 256, 'channel']
const GRIDS: readonly unknown[] = ['auto', 'yes', 'no']
const HINT =
  'a plan is what --save-plan writes: {"kind": "plan", "layers": {"NAME": {"bits": 4, "groupSize": 32, "symmetric": "auto"}}}'

/**
 * The plan of a file; `--layer` edits it, and layers that it does not name stay as they are.
 * @throws QtoolError `usage` when it is no plan, or names layers that the model does not have; `data` when it cannot be read.
 */
export function planFromFile(file: string, model: OnnxModel, found: Layers, config: QuantizeConfig): ModelPlan {
  const choices = readPlan(file)
  const known = new Set(found.layers.map(({ name }) => name))
  const unknown = [...choices.keys()].find((name) => !known.has(name))
  if (unknown !== undefined) {
    throw new QtoolError('usage', `${file}: the model has no layer ${unknown}`, {
      hint: 'a plan belongs to one model: qtool analyze lists the names of its layers',
    })
  }
  const withTables = [...choices].find(([, { codebook }]) => codebook)
  if (withTables && config.method !== 'codebook') {
    throw new QtoolError(
      'usage',
      `${file}: layer ${withTables[0]} has a codebook, but the method is ${config.method}`,
      {
        hint: 'give --method codebook, which leaves layers without one on grids',
      },
    )
  }
  const { fixed, planner, warnings } = freedomOf(model, found, config)
  const planned = planner(
    found.layers.map((layer, i): LayerChoice | 'skip' => {
      const own = choices.get(layer.name)
      const bits = fixed[i]
      if (bits === 'skip' || (!own && bits === undefined)) return 'skip'
      if (!own) return { bits: bits!, groupSize: config.groupSize ?? 32, symmetric: config.symmetric }
      if (!own.codebook) return { ...own, bits: bits ?? own.bits }
      const width = bits ?? own.bits
      // Not all codebooks have indices of all widths.
      if (whyNoCodebook(own.codebook, width, Number.POSITIVE_INFINITY) !== undefined) {
        return onGrid({ ...own, bits: width, symmetric: config.symmetric }, config)
      }
      const codebook = formIn(own.codebook, layer)
      if (codebook) return { ...own, bits: width, codebook }
      throw new QtoolError('usage', `${file}: layer ${layer.name} has other rows than its codebook has tables`, {
        hint: 'a plan belongs to one model',
      })
    }),
  )
  return { ...planned, settled: config, warnings, byteLimit: undefined, bitsPerWeightLimit: undefined }
}

/** Write the choices of a plan. @throws QtoolError `output`. */
export function savePlan(file: string, { plans }: Pick<ModelPlan, 'plans'>): void {
  const layers = Object.fromEntries(
    plans.map(({ layer, bits, groupSize, symmetric, codebook }) => {
      const size = groupSize === layer.view.reduction ? 'channel' : groupSize
      const own = codebook ? { codebook: writtenForm(codebook) } : {}
      return [layer.name, { bits, groupSize: size, symmetric, ...own }]
    }),
  )
  writeTextFile(file, `${JSON.stringify({ kind: KIND, layers }, null, 2)}\n`)
}

function readPlan(file: string): Map<string, LayerChoice> {
  const bad = (what: string, cause?: unknown) => new QtoolError('usage', `${file}: ${what}`, { hint: HINT, cause })
  let text: string
  try {
    text = fs.readFileSync(file, 'utf8')
  } catch (cause) {
    throw new QtoolError('data', `cannot read the plan ${file}: ${(cause as Error).message}`, { cause })
  }
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (cause) {
    throw bad(`is no JSON (${(cause as Error).message})`, cause)
  }
  const { kind, layers } = (json ?? {}) as { kind?: unknown; layers?: unknown }
  if (kind !== KIND || typeof layers !== 'object' || layers === null || Array.isArray(layers)) throw bad('is no plan')
  return new Map(
    Object.entries(layers).map(([name, value]) => {
      const own = (value ?? {}) as Partial<Record<keyof LayerChoice, unknown>>
      const { bits, groupSize, symmetric = 'auto' } = own
      const field = (key: string, found: unknown, wanted: readonly unknown[]) => {
        if (!wanted.includes(found)) {
          const what = found === undefined ? 'missing' : JSON.stringify(found)
          throw bad(`layer ${name}: ${key} is ${what}, wanted one of ${wanted.join(', ')}`)
        }
      }
      field('bits', bits, BITS)
      field('groupSize', groupSize, GROUP_SIZES)
      field('symmetric', symmetric, GRIDS)
      const grid = { bits: bits as Bits, groupSize, symmetric } as LayerChoice
      return [name, own.codebook === undefined ? grid : { ...grid, codebook: tablesOf(file, name, own) }]
    }),
  )
}

/** @throws QtoolError `usage`, naming the field. */
function tablesOf(file: string, name: string, value: unknown): CodebookForm {
  const layer = new Field(file, value, HINT, `layer ${name}`)
  try {
    return formOf(layer.get('codebook'), layer.get('bits'))
  } catch (error) {
    throw new QtoolError('usage', (error as QtoolError).message, { hint: HINT })
  }
}
