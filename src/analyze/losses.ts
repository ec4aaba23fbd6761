/**
 * @file Sensitivities as losses: what each candidate of each layer adds to the loss of a configuration, for allocators, and
 * what a whole configuration is predicted to lose.
 *
 * | sensitivity   | a candidate's loss                                              | a configuration's loss      |
 * |---------------|-----------------------------------------------------------------|-----------------------------|
 * | kl            | measured alone; below 0 where noise says so                     | Σ                           |
 * | coverage      | t = −ln(1 − u·s)/u, one u from all levels                       | (1 − e^{−u·Σt})/u           |
 * | shapley       | ½·(s + f(N) − f(N∖i)) at levels, see layerImportance.ts         | Σ                           |
 * | hessian       | ½·tr(F)/n·‖ΔW‖²                                                 | Σ                           |
 * | pairwise      | measured alone, and cross terms from sketches                   | Σ s + Σ_{i<j} M_ij          |
 * | clado         | measured alone, and cross terms from measured pairs             | Σ s + Σ_{i<j} Ω_ij          |
 * | mse           | relative error of the weights                                   | Σ, not in units of loss     |
 * | outputs       | relative error of the model's outputs, measured alone           | Σ, in units of loss only where the loss is that error |
 * | labels        | cross entropy of labels above the float model's, measured alone; see layerImportance.ts | Σ, not in units of loss |
 * | proxy         | relative error of the layer's outputs                           | Σ, not in units of loss     |
 * | lim, zd       | rank of the block × share of the weights × relative error       | Σ, not in units of loss     |
 */
import { QtoolError } from '../errors.ts'
import { coverageCost, fitShared, predictCoverage } from '../hessian/coverage.ts'
import { traceSensitivity } from '../hessian/hutchinson.ts'
import { gramOf, interactionsFromGram, interactionsFromPairs, predictPairwise } from '../hessian/pairwise.ts'
import type { Analysis, MeasuredCandidate, MeasuredLayer, Sensitivity } from './analysis.ts'
import { blockLosses, labelLosses, shapleyLosses } from './layerImportance.ts'

/** What an allocator minimises: Σ losses, and ½·xᵀGx where there is a Gram matrix. */
interface LossTable {
  /** [layer][candidate]; finite. Candidates without a finite loss have one that any configuration without them is better than. */
  readonly losses: readonly (readonly number[])[]
  /** [n, n] over the flattened candidates of all layers, for `pairwise` and `clado`. Terms within a layer mean nothing. */
  readonly gram?: Float64Array
}

interface LossModel {
  /** May be infinite. */
  readonly losses: readonly (readonly number[])[]
  /** Of M_ij; finite, 0 where a single is infinite, infinite where only a pair is. */
  readonly gram?: Float64Array
  readonly predict: (choice: readonly number[]) => number
}

/** Models that were made: a Gram matrix of many candidates takes seconds. */
const known = new WeakMap<Analysis, Map<Sensitivity, LossModel>>()

/**
 * Losses of candidates.
 * @throws QtoolError `usage` when the analysis lacks what the sensitivity needs; RangeError for a shard.
 */
export function lossTable(analysis: Analysis, sensitivity: Sensitivity): LossTable {
  const { losses, gram } = modelOf(analysis, sensitivity)
  const unusable = worseThanAll(losses)
  const usable = (loss: number) => (loss === Number.POSITIVE_INFINITY ? unusable : loss)
  const table = losses.map((own) => own.map(usable))
  return gram ? { losses: table, gram: gram.map(usable) } : { losses: table }
}

/**
 * Predicted loss of a configuration; see the table above for its unit.
 * @param choice per layer, the place of its candidate
 * @returns Infinity where a candidate has no finite loss.
 * @throws QtoolError and RangeError as {@link lossTable}, RangeError for a candidate that there is not.
 */
export function predict(analysis: Analysis, sensitivity: Sensitivity, choice: readonly number[]): number {
  const { layers } = analysis
  const wrong = choice.length !== layers.length || layers.some(({ candidates }, l) => !candidates[choice[l]!])
  if (wrong) throw new RangeError(`no configuration of ${layers.length} layers: ${choice.join(', ')}`)
  return modelOf(analysis, sensitivity).predict(choice)
}

/** What a sensitivity needs and the analysis has not, for a message; undefined where nothing is missing. */
export function missingFor(
  { layers, levels, blocks, pairs, metric }: Analysis,
  sensitivity: Sensitivity,
): string | undefined {
  switch (sensitivity) {
    case 'kl':
    case 'mse':
      return undefined
    case 'coverage':
      return levels ? undefined : 'losses of all layers together'
    case 'shapley':
      return levels && layers.every(({ leaveOneOut }) => leaveOneOut) ? undefined : 'losses of all layers but one'
    case 'hessian':
      return layers.every(({ trace }) => trace) ? undefined : 'traces of all layers'
    case 'pairwise':
      return layers.every(({ sketches }) => sketches) ? undefined : 'sketches of all layers'
    case 'clado':
      return pairs ? undefined : 'losses of pairs'
    case 'outputs': {
      const all = metric === 'relative' || layers.every(({ candidates }) => candidates.every(({ outputs }) => outputs))
      return all ? undefined : 'errors of the outputs themselves'
    }
    case 'labels': {
      const all = layers.every(({ candidates }) => candidates.every(({ labels }) => labels))
      return all ? undefined : 'losses by labels'
    }
    case 'proxy': {
      const some = layers.some(({ candidates }) => candidates.some(({ proxy }) => proxy !== null))
      return some ? undefined : 'output errors of layers'
    }
    case 'lim':
    case 'zd':
      return blocks?.some((block) => block[sensitivity] !== null) ? undefined : `${sensitivity} of any block`
  }
}

function modelOf(analysis: Analysis, sensitivity: Sensitivity): LossModel {
  if (analysis.shard) throw new RangeError('a shard has no losses of the whole network')
  const missing = missingFor(analysis, sensitivity)
  if (missing !== undefined) {
    throw new QtoolError('usage', `the analysis has no ${missing}, which the sensitivity ${sensitivity} needs`, {
      hint: `measure it: qtool analyze MODEL --data … ${sensitivity === 'labels' ? '--labels … ' : ''}--sensitivity ${sensitivity} -o FILE`,
    })
  }
  const models = known.get(analysis) ?? new Map<Sensitivity, LossModel>()
  known.set(analysis, models)
  const model = models.get(sensitivity) ?? makeModel(analysis, sensitivity)
  models.set(sensitivity, model)
  return model
}

function makeModel(analysis: Analysis, sensitivity: Sensitivity): LossModel {
  const { layers } = analysis
  const perCandidate = (lossOf: (candidate: MeasuredCandidate, layer: MeasuredLayer) => number) =>
    additive(layers.map((layer) => layer.candidates.map((candidate) => lossOf(candidate, layer))))
  switch (sensitivity) {
    case 'kl':
      return additive(singlesOf(analysis))
    case 'coverage':
      return coverageModel(analysis)
    case 'shapley':
      return additive(shapleyLosses(analysis))
    case 'hessian':
      return perCandidate(({ squaredError }, { trace, weights }) =>
        traceSensitivity(trace!.value / 2, weights, squaredError),
      )
    case 'pairwise': {
      // The direction of an answer that is not finite is unknown.
      const singles = singlesOf(analysis).flat()
      const directed = singles.map((single) => (single === Number.POSITIVE_INFINITY ? 0 : single))
      return pairModel(analysis, interactionsFromGram(gramOfSketches(layers), directed))
    }
    case 'clado':
      return pairModel(analysis, measuredInteractions(analysis))
    case 'mse':
      return perCandidate(({ relativeError }) => relativeError)
    case 'outputs':
      return perCandidate(({ outputs, loss }) => (outputs ?? loss).mean)
    case 'labels':
      return additive(labelLosses(analysis))
    case 'proxy':
      // Without statistics (an embedding's rows are looked up, not summed over) all inputs count alike: H = 1.
      return perCandidate(({ proxy, relativeError }) => proxy ?? relativeError)
    case 'lim':
    case 'zd':
      return additive(blockLosses(analysis, sensitivity))
  }
}

function singlesOf({ layers }: Analysis): number[][] {
  return layers.map(({ candidates }) => candidates.map(({ loss }) => loss.mean))
}

function additive(losses: readonly (readonly number[])[]): LossModel {
  return { losses, predict: (choice) => choice.reduce((sum, k, l) => sum + losses[l]![k]!, 0) }
}

/** u from the levels whose losses are all finite. */
function coverageModel(analysis: Analysis): LossModel {
  const singles = singlesOf(analysis)
  const at = (choice: readonly number[]) => choice.map((k, l) => singles[l]![k]!)
  const levels = analysis.levels!.filter(({ choice, loss }) => [loss, ...at(choice)].every(Number.isFinite))
  const columns = levels.map(({ choice }) => at(choice))
  const { u } = fitShared(
    singles.map((_, l) => columns.map((column) => column[l]!)),
    levels.map(({ loss }) => loss),
  )
  const costOf = (single: number) => (Number.isFinite(single) ? coverageCost(single, u) : single)
  return {
    losses: singles.map((own) => own.map(costOf)),
    predict: (choice) => {
      const own = at(choice)
      return own.every(Number.isFinite) ? predictCoverage(own, u) : Number.POSITIVE_INFINITY
    },
  }
}

function pairModel(analysis: Analysis, gram: Float64Array): LossModel {
  const losses = singlesOf(analysis)
  const starts = startsOf(analysis.layers)
  const flat = losses.flat()
  const predictPairs = (choice: readonly number[]) =>
    predictPairwise(
      choice.map((k, l) => starts[l]! + k),
      flat,
      gram,
    )
  return { losses, gram, predict: predictPairs }
}

/** Inner products of all sketches. Those with numbers that are not finite count as 0. */
function gramOfSketches(layers: readonly MeasuredLayer[]): Float64Array {
  const texts = layers.flatMap(({ sketches }) => sketches!)
  const rows = texts.map(decodeSketch)
  const width = rows[0]?.length ?? 0
  const flat = new Float32Array(rows.length * width)
  for (const [i, row] of rows.entries()) if (row.every(Number.isFinite)) flat.set(row, i * width)
  return gramOf(flat, rows.length, width)
}

/** @param text base64 of little-endian float32. */
function decodeSketch(text: string): Float32Array {
  const bytes = Buffer.from(text, 'base64')
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i))
}

function measuredInteractions(analysis: Analysis): Float64Array {
  const singles = singlesOf(analysis).flat()
  const starts = startsOf(analysis.layers)
  const pairs = analysis.pairs!.map(([i, k, j, m, loss]) => ({ first: starts[i]! + k, second: starts[j]! + m, loss }))
  // Beside an infinite single a pair says nothing.
  const telling = pairs.filter(({ first, second }) => Number.isFinite(singles[first]! + singles[second]!))
  return interactionsFromPairs(singles, telling)
}

/** Where each layer's candidates begin in the flattened list. */
function startsOf(layers: readonly MeasuredLayer[]): number[] {
  let at = 0
  return layers.map(({ candidates }) => {
    at += candidates.length
    return at - candidates.length
  })
}

/**
 * Above the loss of any configuration of finite losses by more than any other choice can win back: those of a Gram matrix of L
 * layers are at most L times the sum of their singles (Cauchy).
 */
function worseThanAll(losses: readonly (readonly number[])[]): number {
  let sum = 0
  for (const own of losses) {
    let most = 0
    for (const loss of own) if (Number.isFinite(loss)) most = Math.max(most, Math.abs(loss))
    sum += most
  }
  return 1 + 2 * losses.length * sum
}
