/**
 * @file Weights and calibration data in, stored layers out: walks the network group by group, solves each, and goes on with
 * what was solved, so that later layers make up for the errors of earlier ones.
 */
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { Importance } from '../calibration/positionWeights.ts'
import type { StatisticsWriter } from '../calibration/statsFile.ts'
import type { Walk, WalkOptions } from '../calibration/walk.ts'
import type { QuantizeConfig } from '../config.ts'
import type { Layers } from '../onnx/layers.ts'
import type { Payload } from '../onnx/model.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import type { RunOptions } from '../progress.ts'
import type { CalibrationReport } from '../report.ts'
import { openProducts } from '../runtime/products.ts'
import type { BiasEdit } from './biasEdits.ts'
import { Calibrator } from './calibrator.ts'
import { HeldOutOutputs } from './heldOutOutputs.ts'
import { groupedLayers, memoryNotes } from './layerGroups.ts'
import { gatherAhead, openNetworkWalk } from './networkWalk.ts'
import { OutputJudge } from './outputJudge.ts'
import type { QuantizedLayerData } from './quantizeLayers.ts'
import type { LayerSource } from './readWeight.ts'
import type { SolvedLayers } from './solvedLayers.ts'
import type { SolverTools } from './solveMember.ts'

export interface CalibratedLayers {
  /** In the order of the plans. */
  readonly layers: readonly QuantizedLayerData[]
  readonly biases: readonly BiasEdit[]
  /** Of the model's outputs, one for each held-out sample; empty where nothing was run. */
  readonly heldOutLosses: readonly number[]
  readonly report: CalibrationReport
  readonly warnings: readonly string[]
}

/** Weights of tokens in the statistics of a layer, by the name of its constant; undefined where all count the same. */
export type ImportanceOf = (constant: string) => Importance | undefined

export interface CalibrationTask {
  readonly source: Omit<LayerSource, 'workspace'>
  readonly found: Layers
  readonly plans: readonly LayerPlan[]
  readonly config: QuantizeConfig
  /** Takes a stored tensor's bytes and says where they are from now on. */
  readonly sink: (bytes: Uint8Array) => Payload
  /** How much tokens count in a layer's statistics; undefined where all count the same. */
  readonly importance?: ImportanceOf | undefined
}

/**
 * Quantize every planned layer on calibration data.
 * @param statistics where the float network's statistics go as well; undefined for nowhere.
 * @param checkpoint of a run that can be resumed.
 * @throws QtoolError `data` when the network cannot run on the data or computes NaN; `model`; `numeric` with `strict`
 *   where no damping makes a Hessian positive definite; `interrupted`.
 */
export async function calibrateLayers(
  task: CalibrationTask,
  data: CalibrationData,
  { statistics, solved }: { readonly statistics: StatisticsWriter | undefined; readonly solved: SolvedLayers },
  run: RunOptions,
): Promise<CalibratedLayers> {
  const { source, found, plans } = task
  const layers = plans.map((plan) => plan.layer)
  const grouped = groupedLayers(found, layers)
  const { graph, groups } = grouped
  const memory = memoryNotes(source.model, grouped, layers)
  run.onProgress?.({ stage: 'calibrate', done: 0, total: 1, item: memory.progress })
  const outputs = new HeldOutOutputs()
  const products = openProducts(source.pool.threads)
  const tools: SolverTools = { pool: source.pool, products, signal: run.signal }
  const walks: Walk[] = []
  const open = (onOutput?: WalkOptions['onOutput']): Walk => {
    const walk = openNetworkWalk(source.model, layers, grouped, data, run, onOutput)
    walks.push(walk)
    return walk
  }
  try {
    const ahead = groups.some((group) => group.ahead) ? await gatherAhead(groups, open(), statistics, run) : new Map()
    for (const walk of walks.splice(0)) walk.close()
    const walk: Walk = open((name, batch, float, quantized) => {
      outputs.add(name, { float, quantized, ...walk.batches[batch]! })
    })
    const outputJudge = plans.some(({ onGrid }) => onGrid) ? await OutputJudge.open(walk, run) : undefined
    const calibrator = new Calibrator({ ...task, walk, grouped, ahead, statistics, solved, tools, run, outputJudge })
    for (const group of groups) await calibrator.solve(group)
    await walk.advance(graph.nodes.length)
    return calibrator.result({ ...data, notes: [...data.notes, ...memory.notes] }, outputs)
  } finally {
    for (const walk of walks) walk.close()
    await products.dispose()
  }
}
