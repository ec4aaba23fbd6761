/** @file Real losses of whole configurations: one session serves all of them, since weights and biases are its inputs. */
import { judgingBatches } from '../calibration/judgingBatches.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { Trial, Walk } from '../calibration/walk.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import type { PairedAccuracy } from '../eval/labelLoss.ts'
import { type LossSummary, summarize } from '../eval/outputLoss.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { biasValue } from '../quantize/biasEdits.ts'
import { type GroupedLayers, isFeedable } from '../quantize/layerGroups.ts'
import { quantizedAsTensor } from '../quantize/layerRows.ts'
import { openNetworkWalk } from '../quantize/networkWalk.ts'
import type { LayerSource } from '../quantize/readWeight.ts'
import type { CandidateStore } from './candidateStore.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { openReferences, type References } from './references.ts'

/** A configuration that was run. */
interface Known {
  readonly summary: LossSummary
  readonly losses: readonly number[]
  /** On the held-out samples that have labels; undefined where none have. */
  readonly accuracy: PairedAccuracy | undefined
}

/** The model with every layer at one of its candidates. */
export class Configurations {
  readonly #layers: readonly LayerOptions[]
  readonly #grouped: GroupedLayers
  readonly #store: CandidateStore
  readonly #walk: Walk
  readonly #trial: Trial
  readonly #references: References
  readonly #run: RunOptions
  /** Weights as they were fed last: two configurations in a row share most. */
  readonly #last = new Map<number, { readonly option: number; readonly tensor: FeedTensor }>()
  readonly #known = new Map<string, Known>()

  private constructor(parts: {
    readonly layers: readonly LayerOptions[]
    readonly grouped: GroupedLayers
    readonly store: CandidateStore
    readonly walk: Walk
    readonly trial: Trial
    readonly references: References
    readonly run: RunOptions
  }) {
    this.#layers = parts.layers
    this.#grouped = parts.grouped
    this.#store = parts.store
    this.#walk = parts.walk
    this.#trial = parts.trial
    this.#references = parts.references
    this.#run = parts.run
  }

  /** Open the whole network. All its weights, float and quantized, are in memory until it is closed. */
  static async open(
    source: Omit<LayerSource, 'workspace'>,
    layers: readonly LayerOptions[],
    grouped: GroupedLayers,
    data: CalibrationData,
    store: CandidateStore,
    run: RunOptions,
  ): Promise<Configurations> {
    const constants = layers.map(({ layer }) => layer)
    const walk = openNetworkWalk(source.model, constants, grouped, data, run)
    try {
      const references = await openReferences(walk, data.held, run)
      const trial = await walk.openTrial(walk.graph.nodes.length)
      return new Configurations({ layers, grouped, store, walk, trial, references, run })
    } catch (error) {
      walk.close()
      throw error
    }
  }

  /** How many configurations were run. */
  get evaluations(): number {
    return this.#known.size
  }

  /**
   * Loss on the judging samples.
   * @param choice per layer, the place of its candidate; undefined: as in the float model.
   * @throws QtoolError `data`, `interrupted`.
   */
  async evaluate(choice: readonly (number | undefined)[]): Promise<LossSummary> {
    const key = choice.join()
    const known = this.#known.get(key)
    if (known) return known.summary
    const values = this.#values(choice)
    const losses: number[] = []
    const right: number[] = []
    const { loss, labels } = this.#references
    for (const batch of judgingBatches(this.#walk)) {
      await nextTurn()
      checkAborted(this.#run.signal)
      const outputs = await this.#trial.run('float', batch, { values, place: 'candidate' })
      losses.push(...loss.compare(batch, outputs))
      if (labels) right.push(...labels.compare(batch, outputs).right)
    }
    const summary = summarize(losses)
    this.#known.set(key, { summary, losses, accuracy: labels?.accuracy(right) })
    return summary
  }

  /** Accuracy of a configuration that was evaluated, in the same run; undefined where it was not, or there are no labels. */
  accuracyOf(choice: readonly (number | undefined)[]): PairedAccuracy | undefined {
    return this.#known.get(choice.join())?.accuracy
  }

  /** Standard error of the mean difference of two configurations that were evaluated, sample by sample; 0 where one was not. */
  errorOfDifference(one: readonly (number | undefined)[], other: readonly (number | undefined)[]): number {
    const [a, b] = [this.#known.get(one.join()), this.#known.get(other.join())]
    if (!a || !b) return 0
    const { standardError } = summarize(a.losses.map((loss, i) => loss - b.losses[i]!))
    return Number.isNaN(standardError) ? 0 : standardError
  }

  #values(choice: readonly (number | undefined)[]): Map<string, FeedTensor> {
    const values = new Map<string, FeedTensor>()
    for (const [i, { layer }] of this.#layers.entries()) {
      const option = choice[i]
      if (option === undefined || !isFeedable(layer)) continue
      values.set(layer.constant.name, this.#tensorOf(i, option))
      const site = this.#grouped.sites.get(layer)
      const correction = site && this.#store.get(i, option).correction
      if (!site || !correction) continue
      const before = values.get(site.added) ?? this.#walk.constant('float', site.added)
      values.set(site.added, biasValue(site, before, correction))
    }
    return values
  }

  #tensorOf(place: number, option: number): FeedTensor {
    const last = this.#last.get(place)
    if (last?.option === option) return last.tensor
    const { weight } = this.#store.get(place, option)
    const tensor = quantizedAsTensor(this.#layers[place]!.layer, weight)
    this.#last.set(place, { option, tensor })
    return tensor
  }

  async close(): Promise<void> {
    await this.#trial.close()
    this.#walk.close()
  }
}
