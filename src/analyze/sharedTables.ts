/**
 * @file Tables that layers share cost their bytes once, however many layers have them: no candidate's own cost. So
 * allocations are made for each set of tables that the file may have, with the bytes of the set paid in advance.
 */
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { type StoredTensor, storedTensors } from '../onnx/represent/stored.ts'
import { storedTotal } from '../quantize/storedTotal.ts'
import type { Item } from './allocationProblem.ts'
import type { LayerOptions } from './measuredLayers.ts'

/** What can be chosen from with a set of tables. */
export interface TableSet {
  readonly items: readonly Item[]
  /** Of its tables together. */
  readonly bytes: number
}

/** More tables than these are all in the file, or none: each doubles the sets. */
const MOST_TABLES = 4

/**
 * Every set of the tables that some candidate shares, none and all of them among the sets. Of items without shared tables
 * there is one.
 */
export function tableSets(layers: readonly LayerOptions[], items: readonly Item[]): TableSet[] {
  const bytesOf = new Map<string, number>()
  const keysOf = layers.map(({ options }) =>
    options.map(({ plan }) => sharedTensors(plan).map((tensor) => tensor.sharedAs!)),
  )
  for (const { layers: own, allowed } of items) {
    for (const { plan } of own.flatMap((l) => allowed.map((k) => layers[l]!.options[k]!))) {
      for (const tensor of sharedTensors(plan)) bytesOf.set(tensor.sharedAs!, storedTotal([{ tensors: [tensor] }]))
    }
  }
  const all = [...bytesOf.keys()]
  const subsets =
    all.length > MOST_TABLES
      ? [[], all]
      : all.reduce<string[][]>((sets, key) => sets.flatMap((set) => [set, [...set, key]]), [[]])
  return subsets.flatMap((set) => {
    const isIn = (l: number, k: number) => keysOf[l]![k]!.every((key) => set.includes(key))
    const own = items.map(({ layers: tied, allowed }): Item => {
      return { layers: tied, allowed: allowed.filter((k) => tied.every((l) => isIn(l, k))) }
    })
    if (own.some(({ allowed }) => allowed.length === 0)) return []
    return [{ items: own, bytes: set.reduce((sum, key) => sum + bytesOf.get(key)!, 0) }]
  })
}

/** Bytes of the tables that chosen candidates share, each once. */
export function sharedBytes(layers: readonly LayerOptions[], options: readonly (number | undefined)[]): number {
  const tensors = options.flatMap((k, l) => (k === undefined ? [] : sharedTensors(layers[l]!.options[k]!.plan)))
  return storedTotal([{ tensors }])
}

function sharedTensors(plan: LayerPlan): StoredTensor[] {
  if (!plan.codebook?.shared) return []
  return storedTensors(plan, true, 'float16').filter(({ sharedAs }) => sharedAs !== undefined)
}
