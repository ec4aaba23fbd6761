/** @file One quantization of `codebook.ts`, judged; and what earlier runs left in bench/out/codebook, a file for each model. */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fromJson, toJson } from '../src/calibration/canonicalJson.ts'
import { quantizeModel } from '../src/pipeline.ts'
import type { CodebookArm, CodebookBits, CodebookModel } from './codebookModels.ts'
import type { MixedJudge } from './mixedJudge.ts'
import { failed, progressOf } from './mixedRun.ts'
import type { BenchModel } from './modelList.ts'
import { OUT } from './paths.ts'

/** A quantized model, or what the tool said when it refused. */
type Outcome =
  | {
      /** Mean KL per position in nats, or mean relative squared error per sample. */
      readonly loss: number
      readonly task: number
      /** The whole output, with the graph that looks up the tables. */
      readonly fileBytes: number
      /** Stored bits of a quantized weight: codes, scales, zero points, tables, padding. */
      readonly bitsPerWeight: number
      readonly meanBits: number
      readonly seconds: number
    }
  | { readonly failure: string }

/** `state` is that of the source when the measurement began. */
export type CodebookResult = Outcome & { readonly state: string }

/** One time of one file beside those of float32 and the 4-bit grid, taken in turns. Milliseconds. */
export interface CodebookTimes {
  readonly load: number
  /** Medians by input: `one` or `calibration`. */
  readonly runs: Readonly<Record<string, number>>
}

/** All that is known of a model. */
export interface MeasuredCodebooks {
  readonly loss: MixedJudge['loss']
  /** Name of the task's metric, and the float model's figure. */
  readonly task: string
  readonly float: number
  /** By {@link resultName}. */
  readonly results: Readonly<Record<string, CodebookResult>>
}

/** What a result is kept under: 2/trellis8, 3/grid/128/yes. */
export const resultName = ({ bits, name }: { readonly bits: CodebookBits; readonly name: string }): string =>
  `${bits}/${name}`

function folderOf(): string {
  const folder = join(OUT, 'codebook')
  mkdirSync(folder, { recursive: true })
  return folder
}

/** An empty folder that a function writes models into, gone when it ends. */
export async function withFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = join(folderOf(), `candidate-${process.pid}`)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
  try {
    return await work(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Quantize on the model's calibration data, and judge the file on data that calibration never saw. Activations stay float. */
export function measureCodebook(
  { bench, model, judge }: { bench: BenchModel; model: CodebookModel; judge: MixedJudge },
  arm: CodebookArm,
): Promise<Outcome> {
  const label = `${model.name} ${resultName(arm)}`
  return withFolder(async (folder) => {
    const output = join(folder, 'candidate.onnx')
    try {
      const config = { ...model.calibration(), ...arm.config }
      const report = await quantizeModel(bench.path, output, config, { onProgress: progressOf(label) })
      const { loss, task } = await judge.judge(output)
      const { seconds, totals } = report
      const { bitsPerWeight, meanBits } = totals
      const fileBytes = report.output.totalBytes
      console.error(
        `${label}: ${judge.loss} ${loss.toPrecision(4)}, ${judge.task} ${task.toFixed(4)}, ` +
          `${bitsPerWeight.toFixed(4)} bits/weight, ${fileBytes} bytes, ${seconds.toFixed(1)} s`,
      )
      return { loss, task, fileBytes, bitsPerWeight, meanBits, seconds }
    } catch (error) {
      return failed(label, error)
    }
  })
}

/**
 * Bytes of the file that a grid of the solver will give: those of the same grid without data, which takes a second.
 * @returns undefined where the tool refuses.
 */
export function expectedGridBytes(bench: BenchModel, { config }: CodebookArm): Promise<number | undefined> {
  return withFolder(async (folder) => {
    const output = join(folder, 'rounded.onnx')
    try {
      const report = await quantizeModel(bench.path, output, { ...config, method: 'rtn' })
      return report.output.totalBytes
    } catch (error) {
      failed(`${bench.name} without data`, error)
      return undefined
    }
  })
}

const pathOf = (model: string, suffix = ''): string => join(folderOf(), `${model.replaceAll(' ', '-')}${suffix}.json`)

function readJson<T>(path: string): T | undefined {
  return existsSync(path) ? (fromJson(readFileSync(path, 'utf8')) as T) : undefined
}

/** Under a temporary name first, for a run can be killed at any time. */
function writeJson(path: string, value: unknown): void {
  writeFileSync(`${path}.part`, `${toJson(value)}\n`)
  renameSync(`${path}.part`, path)
}

/** What is kept of a model; undefined when nothing is. */
export const readCodebooks = (model: string): MeasuredCodebooks | undefined => readJson(pathOf(model))

/** Adds a result to what is kept of a model. */
export function keepCodebook(model: string, judge: MixedJudge, arm: CodebookArm, result: CodebookResult): void {
  const { loss, task, float } = judge
  const results = { ...readCodebooks(model)?.results, [resultName(arm)]: result }
  writeJson(pathOf(model), { loss, task, float, results } satisfies MeasuredCodebooks)
}

/** Times of a model's files by {@link resultName}, and `float32`; all of one run, and `state` that of the source. */
export interface MeasuredTimes {
  readonly state: string
  readonly files: Readonly<Record<string, CodebookTimes>>
}

/** Times that are kept of a model; undefined when there are none. */
export const readTimes = (model: string): MeasuredTimes | undefined => readJson(pathOf(model, '-times'))

export const keepTimes = (model: string, times: MeasuredTimes): void => writeJson(pathOf(model, '-times'), times)
