/** @file Opens what an allocation is made from: an analysis that was saved, or one that is measured now and can be tried out. */

import { parseBudgets } from '../bitalloc/budget.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import type { QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import type { Layers, WeightedLayer } from '../onnx/layers.ts'
import { type LayerChoice, planLayer, type Target } from '../onnx/represent/plan.ts'
import type { RunOptions } from '../progress.ts'
import { groupedLayers } from '../quantize/layerGroups.ts'
import { plannedBytes } from '../quantize/planFigures.ts'
import { type Freedom, freedomOf } from '../quantize/planModel.ts'
import type { LayerSource } from '../quantize/readWeight.ts'
import { openProducts } from '../runtime/products.ts'
import type { Analysis } from './analysis.ts'
import { checkAnalysis, readAnalysis } from './analysisFile.ts'
import { coarseWarning } from './bounds.ts'
import { CandidateStore } from './candidateStore.ts'
import { choiceKey, codebookQuestion, isAskedCodebook } from './codebookCandidates.ts'
import { formIn, formLike } from './codebookField.ts'
import { Configurations } from './configurations.ts'
import { missingFor } from './losses.ts'
import { analysisFingerprint, measure } from './measure.ts'
import { type LayerOptions, layerOptions } from './measuredLayers.ts'
import { checkReachable, type MixedTask } from './mixedPlan.ts'
import { sweepLayers } from './sweep.ts'

export interface OpenMixed {
  readonly task: Omit<MixedTask, 'latency'>
  readonly warnings: readonly string[]
  close(): Promise<void>
}

/**
 * Open.
 * @param data    undefined with `config.analysis` alone.
 * @param scratch names a scratch directory for solved candidates.
 * @throws QtoolError `infeasible` before anything is measured when the smallest candidates exceed a budget; `usage`, `data`,
 *   `model`, `interrupted`.
 */
export async function openMixed(
  source: Omit<LayerSource, 'workspace'>,
  found: Layers,
  config: QuantizeConfig,
  data: CalibrationData | undefined,
  scratch: () => string,
  run: RunOptions,
): Promise<OpenMixed> {
  const { model } = source
  const freedom = freedomOf(model, found, config)
  if (config.analysis !== undefined) {
    const analysis = readAnalysis(config.analysis)
    const here = analysisFingerprint(config, model)
    const changed = checkAnalysis(
      analysis,
      data ? here : { ...here, data: analysis.fingerprint.data, settings: analysis.fingerprint.settings },
      config.analysis,
    )
    const sensitivity = usableSensitivities(analysis, config)
    const layers = optionsOf(analysis, found, freedom, config.analysis)
    checkReachable({ model, found, config, layers })
    const isBounded = config.maxKl !== undefined || config.maxDrop !== undefined
    const runs =
      data !== undefined && (config.evaluations > 0 || isBounded)
        ? new LateRuns(source, found, layers, config, data, scratch, run)
        : undefined
    return {
      task: {
        ...{ model, found, analysis, layers, run, config: { ...config, sensitivity } },
        evaluate: runs && ((options) => runs.evaluate(options)),
        errorOfDifference: runs && ((one, other) => runs.errorOfDifference(one, other)),
        accuracyOf: runs && ((options) => runs.accuracyOf(options)),
      },
      warnings: [
        ...(changed === undefined ? [] : [changed]),
        ...codebookWarnings(layers, found, config),
        ...(runs || config.labels === undefined ? [] : [UNUSED_LABELS]),
        ...labelWarnings(config, data),
      ],
      close: async () => runs?.close(),
    }
  }
  if (!data || data.held.count === 0) {
    throw new QtoolError('usage', 'nothing is held out to measure sensitivities on', {
      hint: 'give --data and a --holdout above 0, or allocate with --solver uniform',
    })
  }
  const budgets = config.budget === undefined ? [] : parseBudgets(config.budget)
  const counting = budgets.find(({ kind }) => kind !== 'meanBits') ?? budgets[0]
  const layers = layerOptions(found.layers, freedom, config, counting, codebookQuestion(config, found.layers))
  checkReachable({ model, found, config, layers })
  const store = new CandidateStore(scratch)
  try {
    const { analysis, configurations } = await measure(
      {
        ...{ source, found, layers, damping: config.damping, mapping: config.mapping, seed: config.seed },
        sensitivities: config.sensitivity,
        shard: undefined,
        configurations: 0,
        probes: TRACE_PROBES,
        fingerprint: analysisFingerprint(config, model),
      },
      data,
      store,
      run,
    )
    return {
      task: {
        ...{ model, found, config, analysis, layers, run },
        evaluate: async (options) => (await configurations!.evaluate(options)).mean,
        errorOfDifference: (one, other) => configurations!.errorOfDifference(one, other),
        accuracyOf: (options) => configurations!.accuracyOf(options),
      },
      warnings: labelWarnings(config, data),
      close: async () => {
        await configurations!.close()
        store.close()
      },
    }
  } catch (error) {
    store.close()
    throw error
  }
}

interface Runs {
  readonly configurations: Configurations
  readonly store: CandidateStore
}

/** Runs of allocations beside an analysis: its candidates have to be solved again, which is done when the first is run. */
class LateRuns {
  readonly #open: () => Promise<Runs>
  #opened: Promise<Runs> | undefined
  #configurations: Configurations | undefined

  constructor(
    source: Omit<LayerSource, 'workspace'>,
    found: Layers,
    layers: readonly LayerOptions[],
    { damping, mapping, seed }: QuantizeConfig,
    data: CalibrationData,
    scratch: () => string,
    run: RunOptions,
  ) {
    this.#open = async () => {
      const store = new CandidateStore(scratch)
      const products = openProducts(source.pool.threads)
      try {
        const grouped = groupedLayers(
          found,
          layers.map(({ layer }) => layer),
        )
        const tools = { pool: source.pool, products, signal: run.signal }
        const common = { source, grouped, layers, data, store, run }
        await sweepLayers({ ...common, damping, mapping, seed, tools, wanted: () => true, sketch: 0, measures: false })
        return { store, configurations: await Configurations.open(source, layers, grouped, data, store, run) }
      } catch (error) {
        store.close()
        throw error
      } finally {
        await products.dispose()
      }
    }
  }

  async evaluate(options: readonly (number | undefined)[]): Promise<number> {
    this.#opened ??= this.#open()
    const { configurations } = await this.#opened
    this.#configurations = configurations
    return (await configurations.evaluate(options)).mean
  }

  errorOfDifference(one: readonly (number | undefined)[], other: readonly (number | undefined)[]): number {
    return this.#configurations?.errorOfDifference(one, other) ?? 0
  }

  accuracyOf(options: readonly (number | undefined)[]): ReturnType<Configurations['accuracyOf']> {
    return this.#configurations?.accuracyOf(options)
  }

  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined)
    await opened?.configurations.close()
    opened?.store.close()
  }
}

/** Probes where a trace is only one of several opinions. */
const TRACE_PROBES = 8

const UNUSED_LABELS =
  'labels are not used: beside an analysis no allocation is run, unless --evaluations, --max-kl or --max-drop asks for it'

/** Method codebook with an analysis of grids alone is an allocation of grids. */
function codebookWarnings(layers: readonly LayerOptions[], found: Layers, config: QuantizeConfig): string[] {
  const question = config.codebook === 'light' ? undefined : codebookQuestion(config, found.layers)
  if (!question) return []
  const isAsked = ({ layer, options }: LayerOptions) =>
    options.some(({ choice }) => choice.codebook && isAskedCodebook(choice, layer, found.layers, question))
  if (layers.some(isAsked)) return []
  return [`${config.analysis} has no candidates with codebook ${config.codebook}: layers are on grids`]
}

/** What is to be said of the held-out labels. */
function labelWarnings({ maxDrop }: QuantizeConfig, data: CalibrationData | undefined): string[] {
  const labels = data?.held.labels
  if (!labels) return []
  const coarse = coarseWarning(maxDrop, labels.filter((label) => label >= 0).length)
  return coarse === undefined ? [] : [coarse]
}

/** What the user asks for must be there; what nobody asked for need not. */
function usableSensitivities(
  analysis: Analysis,
  { sensitivity, analysis: name }: QuantizeConfig,
): QuantizeConfig['sensitivity'] {
  const usable = (sensitivity.length > 0 ? sensitivity : analysis.sensitivities).filter((one) => {
    return missingFor(analysis, one) === undefined
  })
  if (usable.length > 0) return usable
  throw new QtoolError('usage', `${name} has none of the sensitivities ${sensitivity.join(', ')}`, {
    hint: `it has ${analysis.sensitivities.join(', ')}`,
  })
}

/** Candidates of an analysis as options, in its order. @throws QtoolError `usage` where a layer is not the model's. */
function optionsOf(analysis: Analysis, found: Layers, { planner }: Freedom, name: string): LayerOptions[] {
  const byName = new Map(found.layers.map((layer) => [layer.name, layer]))
  // The opset is that of each choice for all layers, as when it was measured: others may not carry its width.
  const targets = new Map<string, Target>()
  const targetOf = (choice: LayerChoice): Target => {
    const key = choiceKey(choice)
    const { codebook, ...grid } = choice
    const choiceOf = (layer: WeightedLayer) => (codebook ? { ...grid, codebook: formLike(codebook, layer) } : choice)
    const target = targets.get(key) ?? planner(found.layers.map(choiceOf)).target
    targets.set(key, target)
    return target
  }
  return analysis.layers.map(({ name: layerName, candidates }) => {
    const layer = byName.get(layerName)
    if (!layer) {
      throw new QtoolError('usage', `${name}: the model has no layer ${layerName}`, { hint: 'measure it again' })
    }
    const options = candidates.map(({ bits, groupSize, symmetric, codebook }) => {
      const form = codebook && formIn(codebook, layer)
      if (codebook && !form) {
        throw new QtoolError('usage', `${name}: ${layerName} has other rows than its codebook`, {
          hint: 'measure it again',
        })
      }
      const choice = { bits, groupSize, symmetric, ...(form ? { codebook: form } : {}) }
      const plan = planLayer(layer, choice, targetOf(choice))
      return { choice, plan, storedBytes: plannedBytes(plan) }
    })
    return { layer, options }
  })
}
