/** @file One quantization of `rsq.ts`, judged; and what earlier runs left in bench/out/rsq, a file for each row. */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fromJson, toJson } from '../src/calibration/canonicalJson.ts'
import type { QuantizeConfig } from '../src/config.ts'
import { quantizeModel } from '../src/pipeline.ts'
import type { QuantizeReport } from '../src/report.ts'
import type { MixedJudge } from './mixedJudge.ts'
import { failed, progressOf } from './mixedRun.ts'
import type { BenchModel } from './modelList.ts'
import { OUT } from './paths.ts'
import { scopeLayers } from './qualityModels.ts'
import { RSQ_ARMS, type RsqModel, type RsqRow, rsqRowName } from './rsqModels.ts'

/** A quantized model, or what the tool said when it refused. */
type Outcome =
  | {
      /** Mean KL per position in nats, or mean relative squared error per sample. */
      readonly loss: number
      readonly task: number
      /** The whole output, with what rotations add to the graph. */
      readonly fileBytes: number
      readonly seconds: number
      /** What the tool says of rotations and importance. */
      readonly decisions: readonly string[]
    }
  | { readonly failure: string }

/** `state` is that of the source. */
export type RsqResult = Outcome & { readonly state: string }

/** All that is known of a row. */
export interface MeasuredRsq {
  readonly loss: MixedJudge['loss']
  /** Name of the task's metric, and the float model's figure. */
  readonly task: string
  readonly float: number
  /** By arm, then by seed. */
  readonly arms: Readonly<Record<string, Readonly<Record<string, RsqResult>>>>
}

/** What was tried and kept, or refused, in sentences. */
function decisionsOf({ rsq }: QuantizeReport): readonly string[] {
  if (!rsq) return []
  const tried = rsq.trials.map(({ name, change, standardError, kept }) => {
    const figure = change === undefined ? '' : `: ${(100 * change).toFixed(1)} ± ${(100 * standardError!).toFixed(1)} %`
    return `${name}${figure}, ${kept ? 'kept' : 'not kept'}`
  })
  return [...tried, ...rsq.refused.map((why) => `not rotated: ${why}`), ...rsq.notes]
}

function folderOf(model: string): string {
  const folder = join(OUT, 'rsq', model)
  mkdirSync(folder, { recursive: true })
  return folder
}

/**
 * Quantize on the model's calibration data, and judge the file on data that calibration never saw. Activations stay float.
 * @param arm of {@link RSQ_ARMS}.
 */
export async function measureRsq(
  { bench, model, row, judge }: { bench: BenchModel; model: RsqModel; row: RsqRow; judge: MixedJudge },
  arm: string,
  seed: number,
): Promise<Outcome> {
  const folder = join(folderOf(model.name), 'candidate')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
  const output = join(folder, 'candidate.onnx')
  const name = `${rsqRowName(model.name, row)} ${arm} seed ${seed}`
  const { bits, groupSize, symmetric, scope } = row
  const config: Partial<QuantizeConfig> = {
    ...{ bits, groupSize, symmetric, seed, layers: scopeLayers(bench.path, scope) },
    ...{ accuracyLevel: 0, verify: false, force: true },
    ...model.calibration,
    ...RSQ_ARMS[arm],
  }
  try {
    const report = await quantizeModel(bench.path, output, config, { onProgress: progressOf(name) })
    const { loss, task } = await judge.judge(output)
    const { seconds } = report
    const decisions = decisionsOf(report)
    const metric = `${judge.task} ${task.toFixed(4)}`
    console.error(`${name}: ${judge.loss} ${loss.toPrecision(4)}, ${metric}, ${seconds.toFixed(1)} s`)
    for (const sentence of decisions) console.error(`  ${sentence}`)
    return {
      ...{ loss, task, seconds, decisions },
      fileBytes: report.output.totalBytes,
    }
  } catch (error) {
    return failed(name, error)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const pathOf = (model: string, row: RsqRow): string =>
  join(folderOf(model), `${rsqRowName(model, row).split('/').slice(1).join('-')}.json`)

/** What is kept of a row; undefined when nothing is. */
export function readRsq(model: string, row: RsqRow): MeasuredRsq | undefined {
  const path = pathOf(model, row)
  return existsSync(path) ? (fromJson(readFileSync(path, 'utf8')) as MeasuredRsq) : undefined
}

/** Adds a result to what is kept of a row; under a temporary name first, for a run can be killed at any time. */
export function keepRsq(
  model: string,
  row: RsqRow,
  { loss, task, float }: MixedJudge,
  result: { readonly arm: string; readonly seed: number; readonly result: RsqResult },
): void {
  const arms = readRsq(model, row)?.arms ?? {}
  const bySeed = { ...arms[result.arm], [result.seed]: result.result }
  const measured: MeasuredRsq = { loss, task, float, arms: { ...arms, [result.arm]: bySeed } }
  const path = pathOf(model, row)
  writeFileSync(`${path}.part`, `${toJson(measured)}\n`)
  renameSync(`${path}.part`, path)
}
