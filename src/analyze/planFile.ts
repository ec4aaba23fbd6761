/** @file `--plan FILE` and `--save-plan FILE`: an allocation as JSON that a person can read and edit. */
import fs from 'node:fs'
import type { QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import type { Layers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { LayerChoice } from '../onnx/represent/plan.ts'
import { writeTextFile } from '../onnx/textFile.ts'
import { BITS, type Bits } from '../quant/quantizedWeight.ts'
import { freedomOf, type ModelPlan } from '../quantize/planModel.ts'

const KIND = 'plan'
const GROUP_SIZES: readonly unknown[] = [16, 32, 64, 128, 256, 'channel']
const GRIDS: readonly unknown[] = ['auto', 'yes', 'no']

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
  const { fixed, planner, warnings } = freedomOf(model, found, config)
  const planned = planner(
    found.layers.map(({ name }, i): LayerChoice | 'skip' => {
      const own = choices.get(name)
      const bits = fixed[i]
      if (bits === 'skip' || (!own && bits === undefined)) return 'skip'
      const { groupSize, symmetric } = own ?? { groupSize: config.groupSize ?? 32, symmetric: config.symmetric }
      return { bits: bits ?? own!.bits, groupSize, symmetric }
    }),
  )
  return { ...planned, settled: config, warnings, byteLimit: undefined, bitsPerWeightLimit: undefined }
}

/** Write the choices of a plan. @throws QtoolError `output`. */
export function savePlan(file: string, { plans }: Pick<ModelPlan, 'plans'>): void {
  const layers = Object.fromEntries(
    plans.map(({ layer, bits, groupSize, symmetric }) => {
      const size = groupSize === layer.view.reduction ? 'channel' : groupSize
      return [layer.name, { bits, groupSize: size, symmetric }]
    }),
  )
  writeTextFile(file, `${JSON.stringify({ kind: KIND, layers }, null, 2)}\n`)
}

function readPlan(file: string): Map<string, LayerChoice> {
  const bad = (what: string, cause?: unknown) =>
    new QtoolError('usage', `${file}: ${what}`, {
      hint: 'a plan is what --save-plan writes: {"kind": "plan", "layers": {"NAME": {"bits": 4, "groupSize": 32, "symmetric": "auto"}}}',
      cause,
    })
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
      const { bits, groupSize, symmetric = 'auto' } = (value ?? {}) as Partial<Record<keyof LayerChoice, unknown>>
      const field = (key: string, found: unknown, wanted: readonly unknown[]) => {
        if (!wanted.includes(found)) {
          const what = found === undefined ? 'missing' : JSON.stringify(found)
          throw bad(`layer ${name}: ${key} is ${what}, wanted one of ${wanted.join(', ')}`)
        }
      }
      field('bits', bits, BITS)
      field('groupSize', groupSize, GROUP_SIZES)
      field('symmetric', symmetric, GRIDS)
      return [name, { bits: bits as Bits, groupSize, symmetric } as LayerChoice]
    }),
  )
}
