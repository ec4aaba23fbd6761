/** @file Layers and candidates under measurement: what can be chosen per layer, with the exact bytes of each choice. */
import type { Budget } from '../bitalloc/budget.ts'
import { DEFAULT_GROUP_SIZE, type QuantizeConfig } from '../config.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import type { LayerChoice, LayerPlan } from '../onnx/represent/plan.ts'
import { BITS } from '../quant/quantizedWeight.ts'
import { plannedBytes } from '../quantize/planFigures.ts'
import type { Freedom } from '../quantize/planModel.ts'
import { type CodebookQuestion, codebookChoices } from './codebookCandidates.ts'

/** A layer and the ways to quantize it, in the order of falling width. */
export interface LayerOptions {
  readonly layer: WeightedLayer
  readonly options: readonly { readonly choice: LayerChoice; readonly plan: LayerPlan; readonly storedBytes: number }[]
}

/** Group sizes that compete where a budget counts scales: smaller ones rarely pay beside another bit. */
const GROUP_SIZES: readonly (number | 'channel')[] = [32, 64, 128]

/**
 * The ways to quantize each layer. A budget on the mean width says nothing of scales, so the group size stays; others
 * count them, and group sizes and grids without zero points compete too.
 *
 * @param layers all of the model.
 * @param budget undefined: as for a mean width.
 * @param codebook whose candidates stand beside the grids, where a layer can have them; undefined: grids alone.
 * @returns layers that at least one choice makes smaller, in the order of the model; those that the user skips are not among
 *   them, and a width that the user fixed leaves only its own choices.
 */
export function layerOptions(
  layers: readonly WeightedLayer[],
  { fixed, planner }: Freedom,
  { bits, groupSize, symmetric }: Pick<QuantizeConfig, 'bits' | 'groupSize' | 'symmetric'>,
  budget: Budget | undefined,
  codebook?: CodebookQuestion | undefined,
): LayerOptions[] {
  const countsScales = budget !== undefined && budget.kind !== 'meanBits'
  const sizes = groupSize !== undefined ? [groupSize] : countsScales ? GROUP_SIZES : [DEFAULT_GROUP_SIZE]
  const grids: LayerChoice['symmetric'][] = symmetric === 'auto' && countsScales ? ['auto', 'yes'] : [symmetric]
  const widths = bits === undefined ? BITS : [bits]
  // The opset that some width needs is raised for all, so all are planned at the one that the most demanding asks for.
  const everything = [...new Set([...widths, ...fixed])].filter((width) => width !== undefined && width !== 'skip')
  const onGrids = everything.flatMap((width) =>
    sizes.flatMap((size) => grids.map((grid): LayerChoice => ({ bits: width, groupSize: size, symmetric: grid }))),
  )
  const choices: ((layer: WeightedLayer) => LayerChoice)[] = [
    ...onGrids.map((choice) => () => choice),
    ...(codebook ? codebookChoices(layers, codebook) : []),
  ]
  const found = new Map<WeightedLayer, { choice: LayerChoice; plan: LayerPlan; storedBytes: number }[]>()
  for (const choiceOf of choices) {
    const { plans } = planner(layers.map((layer, i) => (fixed[i] === 'skip' ? 'skip' : choiceOf(layer))))
    for (const plan of plans) {
      const choice = choiceOf(plan.layer)
      // What cannot have these tables has become a grid, which is a choice already.
      if (choice.codebook && !plan.codebook) continue
      const own = fixed[layers.indexOf(plan.layer)]
      if (own === undefined ? !widths.includes(choice.bits) : own !== choice.bits) continue
      // Where the opset cannot carry a width, the wider one it becomes is a choice already.
      if (own === undefined && plan.bits !== choice.bits && widths.includes(plan.bits)) continue
      const list = found.get(plan.layer) ?? []
      found.set(plan.layer, list)
      list.push({ choice, plan, storedBytes: plannedBytes(plan) })
    }
  }
  return layers.flatMap((layer) => {
    const options = found.get(layer)
    return options ? [{ layer, options: options.sort((a, b) => b.storedBytes - a.storedBytes) }] : []
  })
}
