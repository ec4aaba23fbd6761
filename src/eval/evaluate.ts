/** @file The stages of an evaluation in order: load, compare, time, look at the execution, vary the accuracy level, weigh, judge. */
import type { EvalConfig } from '../config.ts'
import type { Dataset } from '../data/dataset.ts'
import type { FeedTensor, ModelInput } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { fileSizes } from '../onnx/fileSizes.ts'
import { loadModel } from '../onnx/load.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import type { EvalReport, ModelMemory } from '../report.ts'
import type { Session } from '../runtime/session.ts'
import { compareAccuracyLevels } from './accuracyLevels.ts'
import { compareModels } from './compare.ts'
import { describeExecution } from './execution.ts'
import { measureLatency, openBoth, type Pair } from './latency.ts'
import { measureMemory } from './memory.ts'
import { candidateFeeds, pairModels } from './pairing.ts'
import { countFusedProducts, slowProductWarnings } from './products.ts'
import { profileRun } from './profile.ts'
import { checkThresholds, checkThresholdsAhead } from './thresholds.ts'

/**
 * Compare a candidate with its reference.
 *
 * @param openDataset makes the data for the reference's inputs; called once, after both models are loaded
 * @returns everything an EvalReport holds but its version fields
 * @throws QtoolError `model`, `data`, `usage` or `interrupted`; see the stages
 */
export async function evaluate(
  referencePath: string,
  candidatePath: string,
  openDataset: (inputs: readonly ModelInput[]) => Dataset | Promise<Dataset>,
  config: EvalConfig,
  run: RunOptions = {},
): Promise<Omit<EvalReport, 'schemaVersion' | 'kind' | 'qtoolVersion'>> {
  const { threads } = config
  checkThresholdsAhead(config.thresholds, config.labels !== undefined)
  const referenceModel = loadModel(referencePath)
  const candidateModel = loadModel(candidatePath)
  const paths = { reference: referencePath, candidate: candidatePath }
  const { sessions, loadMilliseconds } = await openBoth(paths, { threads })
  try {
    checkAborted(run.signal)
    const dataset = await openDataset(sessions.reference.inputs)
    const options = { batchSize: config.batchSize, logits: config.logits }
    const comparison = await compareModels(sessions.reference, sessions.candidate, dataset, options, run)
    const feeds = pairedFeeds(dataset, config.batchSize, sessions)
    const latencyMilliseconds = await measureLatency(sessions, feeds, config.runs, run)
    await sessions.candidate.dispose()
    checkAborted(run.signal)
    const executed = await profileRun(candidatePath, feeds.candidate, threads)
    const levels = await compareAccuracyLevels(
      {
        reference: sessions.reference,
        candidatePath,
        candidate: candidateModel.proto,
        hasFusedProducts: countFusedProducts(candidateModel.proto, executed) > 0,
        dataset,
        options,
        asIs: comparison,
        threads,
      },
      run,
    )
    await sessions.reference.dispose()
    const memory = await measureBoth(paths, feeds, threads, run)
    const { outputs, metrics } = comparison
    const candidate = fileSizes(candidateModel)
    const { bytes: memoryBytes } = memory
    const measured = { outputs, metrics, candidateBytes: candidate.totalBytes, latencyMilliseconds, memoryBytes }
    const thresholds = checkThresholds(config.thresholds, measured)
    return {
      reference: fileSizes(referenceModel),
      candidate,
      data: {
        source: config.data.join(', ') || `${config.random} random samples, seed ${config.seed}`,
        samples: comparison.samples,
        random: config.data.length === 0,
        filledInputs: dataset.filled,
      },
      outputs,
      metrics,
      loadMilliseconds,
      latencyMilliseconds,
      memoryBytes,
      execution: describeExecution(candidateModel.proto, executed),
      accuracyLevels: levels.levels,
      thresholds,
      passed: thresholds.every((threshold) => threshold.passed),
      warnings: [
        ...dataset.notes,
        ...comparison.warnings,
        ...slowProductWarnings(candidateModel.proto),
        ...levels.warnings,
        ...memory.warnings,
      ],
    }
  } finally {
    await sessions.reference.dispose()
    await sessions.candidate.dispose()
  }
}

/** Memory of both models. Where it cannot be measured, a warning says why, and the rest of the evaluation holds. */
async function measureBoth(
  paths: Pair<string>,
  feeds: Pair<ReadonlyMap<string, FeedTensor>>,
  threads: number,
  run: RunOptions,
): Promise<{ readonly bytes: Pair<ModelMemory> | undefined; readonly warnings: readonly string[] }> {
  const measure = (which: keyof Pair<string>) =>
    measureMemory({ path: paths[which], feeds: feeds[which], threads }, run)
  try {
    return { bytes: { reference: await measure('reference'), candidate: await measure('candidate') }, warnings: [] }
  } catch (error) {
    if (!(error instanceof QtoolError && error.code === 'model')) throw error
    return { bytes: undefined, warnings: [error.message] }
  }
}

/** The first batch, under the names of each model. */
function pairedFeeds(
  dataset: Dataset,
  batchSize: number,
  { reference, candidate }: Pair<Session>,
): Pair<ReadonlyMap<string, FeedTensor>> {
  const [batch] = dataset.batches(batchSize)
  const pairing = pairModels(reference, candidate)
  return { reference: batch!.feeds, candidate: candidateFeeds(batch!.feeds, pairing) }
}
