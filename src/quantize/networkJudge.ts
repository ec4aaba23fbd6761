/**
 * @file Judges candidates on held-out samples: how far the network with a candidate's weights is from the float network
 * where the next layers have had their effect too.
 */

import { judgingBatches } from '../calibration/judgingBatches.ts'
import { floatsOf, isFloatTensor } from '../calibration/tensors.ts'
import type { Trial, Values, Walk } from '../calibration/walk.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import type { QuantizedWeight } from '../quant/quantizedWeight.ts'
import { biasValue } from './biasEdits.ts'
import { quantizedAsTensor } from './layerRows.ts'
import type { Member } from './members.ts'

/** Inputs of the group under judgement are taken batch by batch until they are this many bytes. */
const ENOUGH_BYTES = 8 * 2 ** 20
/** Or until what they are compared at is: logits are large. */
const ENOUGH_REFERENCES = 64 * 2 ** 20

export interface NetworkJudge {
  /**
   * Relative squared error at the horizon, the mean over the tensors that are alive there: Σ‖f − q‖² / Σ‖f‖². Padding
   * does not count.
   * @param values weights and biases of the candidate by name.
   */
  error(values: Values): Promise<number>
  close(): Promise<void>
}

/**
 * Open a judge at the walk's position.
 * @param reads   names that the group reads; they tell how many samples are enough.
 * @param weights names that candidates bring values for: the float ones are let go, a head's take a hundred megabytes.
 * @param horizon cut at which the networks are compared.
 */
export async function openNetworkJudge(
  walk: Walk,
  reads: readonly string[],
  weights: readonly string[],
  horizon: number,
  run: RunOptions,
): Promise<NetworkJudge> {
  const trial = await walk.openTrial(horizon)
  const references = new Map<number, Map<string, Float32Array>>()
  let bytes = 0
  for (const batch of enoughBatches(walk, reads)) {
    await nextTurn()
    checkAborted(run.signal)
    const reference = floatTensors(await trial.run('float', batch))
    references.set(batch, reference)
    for (const { byteLength } of reference.values()) bytes += byteLength
    if (bytes > ENOUGH_REFERENCES) break
  }
  for (const name of weights) walk.forget(name)
  return {
    async error(values) {
      const sums = new Map<string, { error: number; norm: number }>()
      for (const [batch, reference] of references) {
        await nextTurn()
        checkAborted(run.signal)
        addErrors(
          sums,
          reference,
          await trial.run('quantized', batch, { values, place: 'candidate' }),
          walk.batches[batch]!.weights,
        )
      }
      const ratios = [...sums.values()].flatMap(({ error, norm }) => (norm > 0 ? [error / norm] : []))
      return ratios.reduce((a, b) => a + b, 0) / Math.max(1, ratios.length)
    },
    close: () => trial.close(),
  }
}

/** Held-out batches, until what the group reads there is enough. */
function enoughBatches(walk: Walk, reads: readonly string[]): number[] {
  let bytes = 0
  return judgingBatches(walk).filter((batch) => {
    const isWanted = bytes < ENOUGH_BYTES
    for (const name of reads) if (walk.isActivation(name)) bytes += walk.activations.shapeOf('float', batch, name).bytes
    return isWanted
  })
}

function floatTensors(tensors: Awaited<ReturnType<Trial['run']>>): Map<string, Float32Array> {
  return new Map([...tensors].flatMap(([name, tensor]) => (isFloatTensor(tensor) ? [[name, floatsOf(tensor)]] : [])))
}

function addErrors(
  sums: Map<string, { error: number; norm: number }>,
  reference: ReadonlyMap<string, Float32Array>,
  candidate: ReadonlyMap<string, FeedTensor>,
  weights: Float32Array | undefined,
): void {
  for (const [name, float] of reference) {
    const tensor = candidate.get(name)!
    const quantized = floatsOf(tensor)
    const [batch = 1, sequence = 1] = tensor.dims
    const rowWeights = weights && tensor.dims.length > 2 && batch * sequence === weights.length ? weights : undefined
    const width = rowWeights ? float.length / rowWeights.length : float.length
    const sum = sums.get(name) ?? { error: 0, norm: 0 }
    sums.set(name, sum)
    for (let row = 0; row * width < float.length; row++) {
      if (rowWeights?.[row] === 0) continue
      let error = 0
      let norm = 0
      for (let i = row * width; i < (row + 1) * width; i++) {
        const f = float[i]!
        // A mask of −∞ is the same on both sides; what counts is no NaN, only padding is.
        if (f === quantized[i]! || Number.isNaN(f)) {
          if (Number.isFinite(f)) norm += f * f
          continue
        }
        error += (f - quantized[i]!) ** 2
        norm += f * f
      }
      sum.error += error
      sum.norm += norm
    }
  }
}

/**
 * What the network computes with under a candidate, by name.
 * @param corrections mean output errors that biases take back, one per member.
 * @param room        memory for the weights of each member, filled here and written over by the next candidate's.
 */
export function candidateValues(
  walk: Walk,
  members: readonly Member[],
  weights: readonly QuantizedWeight[],
  corrections: readonly (Float64Array | undefined)[],
  room: Float32Array[] = [],
): Values {
  const values = new Map<string, FeedTensor>()
  members.forEach(({ plan, site }, i) => {
    room[i] ??= new Float32Array(weights[i]!.codes.length)
    values.set(plan.layer.constant.name, quantizedAsTensor(plan.layer, weights[i]!, room[i]))
    const correction = corrections[i]
    if (site && correction) {
      const before = values.get(site.added) ?? walk.constant('quantized', site.added)
      values.set(site.added, biasValue(site, before, correction))
    }
  })
  return values
}
