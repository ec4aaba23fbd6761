/**
 * @file Method rsq before anything is measured or written: which rotations the model takes, and how much each token counts.
 * What is `auto` is tried, calibrated with one width for all layers, and kept only where the outputs on held-out samples
 * are better by more than chance.
 *
 * Source: RSQ (Sung et al. 2025, arXiv 2503.01820), which rotates and weighs always; rotations do not help everywhere.
 */

import { findBlocks } from '../calibration/blocks.ts'
import { analyseMainGraph } from '../calibration/mainGraph.ts'
import { tokenWeights } from '../data/tokenWeights.ts'
import { QtoolError } from '../errors.ts'
import { modelLayers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { Temporaries } from '../onnx/temporaries.ts'
import type { RsqReport } from '../report.ts'
import { checkRotation } from '../rsq/checkRotation.ts'
import { collectImportance, importanceByLayer } from '../rsq/collectScores.ts'
import type { ImportanceName } from '../rsq/importance.ts'
import { studentScores } from '../rsq/studentScores.ts'
import { groupedLayers } from './layerGroups.ts'
import { openNetworkWalk } from './networkWalk.ts'
import { onDisk } from './onDisk.ts'
import { type RotationPart, rotationParts } from './rotationParts.ts'
import {
  compareLosses,
  heldOutLosses,
  meanOf,
  roundingLoss,
  type TrialSetting,
  trialWidth,
  type Variant,
} from './variants.ts'

export interface RsqSetting extends TrialSetting {
  /** Names a place for a rotated model. */
  readonly scratch: () => string
  readonly temporaries: Temporaries
  /** Path of a plainly rounded copy of the model, made when it is first asked for. */
  readonly student: () => Promise<string>
}

/** What all that follows works on. */
export interface PreparedRsq extends Variant {
  readonly report: RsqReport
}

/** What `auto` tries: the strategy that the paper chose, and the one that won most often here (bench/RESULTS.md). */
const AUTO_IMPORTANCE: readonly ImportanceName[] = ['attention', 'activation-difference']
/** Batches that a rotated model is compared with the original on. */
const CHECKED_BATCHES = 2

/**
 * Decide.
 * @throws QtoolError `model` with `strict` or `--rotation on` where nothing can be rotated; `data`, `numeric`, `interrupted`.
 */
export async function prepareRsq(model: OnnxModel, setting: RsqSetting): Promise<PreparedRsq> {
  const plain: Variant = { model, found: modelLayers(model.proto), importance: undefined }
  const preparation = new Preparation(plain, setting)
  if (setting.config.rotation !== 'off') await preparation.rotate()
  const { tokenImportance } = setting.config
  const strategies = tokenImportance === 'auto' ? AUTO_IMPORTANCE : tokenImportance === 'none' ? [] : [tokenImportance]
  for (const strategy of strategies) await preparation.weigh(strategy, tokenImportance === 'auto')
  return preparation.result()
}

/** Why an edit cannot be made. @throws what is no fault of the model's. */
function reasonOf(error: unknown): string {
  if (error instanceof QtoolError && (error.code === 'model' || error.code === 'numeric')) return error.message
  throw error
}

type Trial = RsqReport['trials'][number]

class Preparation {
  readonly #setting: RsqSetting
  readonly #trials: Trial[] = []
  readonly #refused: string[] = []
  readonly #notes: string[] = []
  #best: Variant
  /** Of the best variant, once something was compared with it. */
  #losses: readonly number[] | undefined
  #importance: ImportanceName | undefined

  constructor(plain: Variant, setting: RsqSetting) {
    this.#best = plain
    this.#setting = setting
  }

  /** Try part after part, each on top of those that were kept. */
  async rotate(): Promise<void> {
    const { config } = this.#setting
    const original = this.#best
    const { parts, refused } = rotationParts(original.found, config)
    this.#refused.push(...refused)
    for (const part of parts) {
      const made = await this.#bestSeed(part).catch((error: unknown) => reasonOf(error))
      if (typeof made === 'string') {
        this.#refused.push(`${part.name}: ${made}`)
        continue
      }
      const { seed, variant } = made
      const { agrees, error, tolerance, output } = await this.#check(original.model, variant.model)
      if (!agrees) {
        const wanted = `wanted a difference of at most ${tolerance}`
        const found =
          output === undefined ? 'no float output to compare' : `${error.toExponential(1)} in output ${output}`
        this.#refused.push(`${part.name}: not exact on the calibration data: ${wanted}, found ${found}`)
        continue
      }
      await this.#decide(`${part.name}, seed ${seed}`, variant, config.rotation === 'auto', error)
    }
    if (this.#trials.length > 0) return
    const why = this.#refused.length > 0 ? this.#refused.join('; ') : 'it has no residual stream'
    if (config.rotation === 'on' || config.strict) {
      throw new QtoolError('model', `${original.model.path}: nothing in it can be rotated: ${why}`, {
        hint: 'leave out --rotation on and --strict, or use --method gptq',
      })
    }
    this.#notes.push('nothing in the model can be rotated')
  }

  /** The rotation under which plain rounding loses least. */
  async #bestSeed(part: RotationPart): Promise<{ readonly seed: number; readonly variant: Variant }> {
    const { config } = this.#setting
    const count = part.isSeeded ? config.rotationSeeds : 1
    const made = (seed: number): Variant => {
      const model = part.apply(this.#best.model, seed)
      return { model, found: modelLayers(model.proto), importance: undefined }
    }
    let best = { seed: config.seed, loss: Number.POSITIVE_INFINITY }
    for (let i = 0; i < count && count > 1; i++) {
      const seed = config.seed + i
      const loss = await roundingLoss(made(seed), this.#setting)
      if (loss < best.loss) best = { seed, loss }
    }
    return { seed: best.seed, variant: this.#onDisk(made(best.seed)) }
  }

  #onDisk({ model }: Variant): Variant {
    const { scratch, temporaries } = this.#setting
    return { ...onDisk(model, scratch(), temporaries), importance: undefined }
  }

  async #check(original: OnnxModel, rotated: OnnxModel) {
    const { data, scratch, temporaries, run } = this.#setting
    const runs = []
    for (const batch of data.fit.batches(data.batchSize)) {
      if (runs.push({ feeds: batch.feeds, weights: tokenWeights(batch) }) >= CHECKED_BATCHES) break
    }
    return checkRotation(original.path, rotated, runs, { ...run, scratch: scratch(), temporaries })
  }

  /** Weigh tokens by their importance, as far as that is known. */
  async weigh(strategy: ImportanceName, isGated: boolean): Promise<void> {
    const { config, data, run, student } = this.#setting
    const { model, found } = this.#best
    const grouped = groupedLayers(found, found.layers)
    const walk = openNetworkWalk(model, found.layers, grouped, data, run)
    try {
      const scores =
        strategy === 'student-kl'
          ? await studentScores(data.fit, data.batchSize, model.path, await student(), run)
          : undefined
      const blocks = findBlocks(analyseMainGraph(found.index), found.layers)
      const collected = await collectImportance(
        walk,
        blocks,
        {
          strategy,
          studentScores: scores,
          rMin: config.importanceMin,
          exponent: config.importanceExponent,
          lengthCorrection: config.importanceLength,
          quantile: config.importanceQuantile,
        },
        run,
      )
      this.#notes.push(...collected.notes)
      if (collected.blocks.every(({ weights }) => weights.every((own) => own === undefined))) return
      const variant = { model, found, importance: importanceByLayer(collected.blocks) }
      if (await this.#decide(`importance by ${strategy}`, variant, isGated)) this.#importance = strategy
    } finally {
      walk.close()
    }
  }

  /** Keep a variant where it is wanted, or where it is better. */
  async #decide(name: string, variant: Variant, isGated: boolean, difference?: number): Promise<boolean> {
    if (!isGated) {
      this.#best = variant
      this.#losses = undefined
      this.#trials.push({ name, difference, loss: undefined, change: undefined, standardError: undefined, kept: true })
      return true
    }
    this.#losses ??= await this.#run(this.#trials.some(({ kept }) => kept) ? 'as kept so far' : 'as it is', this.#best)
    const losses = await this.#run(name, variant)
    const { change, standardError, isBetter } = compareLosses(losses, this.#losses)
    if (this.#trials.length === 0) {
      const loss = meanOf(this.#losses)
      const none = { difference: undefined, change: undefined, standardError: undefined }
      this.#trials.push({ name: 'as it is', loss, ...none, kept: true })
      this.#notes.push(`trials are calibrated with ${trialWidth(this.#best, this.#setting.config)}`)
    }
    this.#trials.push({ name, difference, loss: meanOf(losses), change, standardError, kept: isBetter })
    if (!isBetter) return false
    this.#best = variant
    this.#losses = losses
    return true
  }

  async #run(name: string, variant: Variant): Promise<readonly number[]> {
    const { run } = this.#setting
    run.onProgress?.({ stage: 'calibrate', done: 0, total: 1, item: `trial: ${name}` })
    return heldOutLosses(variant, this.#setting)
  }

  result(): PreparedRsq {
    const report: RsqReport = {
      trials: this.#trials,
      importance: this.#importance,
      refused: this.#refused,
      notes: this.#notes,
    }
    return { ...this.#best, report }
  }
}
