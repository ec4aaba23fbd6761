/** @file One quantization of `mixed.ts`, judged; and what earlier runs left in bench/out/mixed. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fromJson, toJson } from '../src/calibration/canonicalJson.ts'
import type { QuantizeConfig } from '../src/config.ts'
import { QtoolError } from '../src/errors.ts'
import { quantizeModel } from '../src/pipeline.ts'
import type { ProgressListener } from '../src/progress.ts'
import type { AllocationReport } from '../src/report.ts'
import type { MixedFigures, MixedJudge } from './mixedJudge.ts'
import type { MixedModel } from './mixedModels.ts'
import type { BenchModel } from './modelList.ts'
import { OUT, ROOT } from './paths.ts'

/** What all steps on one model share. */
export interface Subject {
  readonly model: MixedModel
  readonly bench: BenchModel
  readonly judge: MixedJudge
}

/** How an allocation came about. */
type Allocated = Pick<AllocationReport, 'candidates' | 'measured' | 'uniform' | 'evaluations' | 'accepted'> & {
  /** Width of each layer, in the order of the model. */
  readonly widths: readonly number[]
}

/** A quantized model, or what the tool said when it refused. */
export type Arm =
  | (MixedFigures & {
      readonly meanBits: number
      /** Codes, scales and zero points of all quantized layers. */
      readonly storedBytes: number
      /** Of the whole quantization, with all measurements. */
      readonly seconds: number
      readonly allocation?: Allocated
    })
  | { readonly failure: string }

/** Weights alone are compared: float activations, and grids with zero points, so that equal widths are equal bytes. */
export const WEIGHTS_ALONE = { symmetric: 'no', accuracyLevel: 0, verify: false, force: true } as const

/** What this file's neighbours keep in bench/out/mixed, a folder for each model. */
export function folderOf({ name }: Pick<MixedModel, 'name'>): string {
  const folder = join(OUT, 'mixed', name.replaceAll(' ', '-'))
  mkdirSync(folder, { recursive: true })
  return folder
}

/** Says on stderr where a step is: each new stage, and every few seconds. */
export function progressOf(label: string): ProgressListener {
  let [stage, last] = ['', 0]
  return (event) => {
    const now = performance.now()
    if (event.stage === stage && now - last < 5000) return
    stage = event.stage
    last = now
    const words = [event.item, event.detail].filter((word) => word !== undefined).join(', ')
    console.error(`  ${label}: ${stage} ${event.done}/${event.total} ${words}`)
  }
}

/** Quantize on the model's calibration data, and judge the file on data that calibration never saw. */
export async function measureArm(subject: Subject, label: string, config: Partial<QuantizeConfig>): Promise<Arm> {
  const { model, bench, judge } = subject
  const folder = join(folderOf(model), 'candidate')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
  const output = join(folder, 'candidate.onnx')
  const name = `${model.name} ${label}`
  try {
    const settings = { ...WEIGHTS_ALONE, ...model.calibration(), ...config }
    const { totals, layers, seconds, allocation } = await quantizeModel(bench.path, output, settings, {
      onProgress: progressOf(name),
    })
    const figures = await judge.judge(output)
    console.error(
      `${name}: ${judge.loss} ${figures.loss.toPrecision(4)}, ${judge.task} ${figures.task.toFixed(4)}, ` +
        `${totals.meanBits.toFixed(3)} bits, ${seconds.toFixed(1)} s`,
    )
    return {
      ...{ ...figures, meanBits: totals.meanBits, seconds },
      storedBytes: layers.reduce((sum, layer) => sum + layer.storedBytes, 0),
      ...(allocation ? { allocation: allocated(allocation) } : {}),
    }
  } catch (error) {
    return failed(name, error)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A refusal of the tool is a result; anything else is thrown. */
export function failed(name: string, error: unknown): { readonly failure: string } {
  if (!(error instanceof QtoolError)) throw error
  console.error(`${name}: ${error.message}`)
  return { failure: error.message }
}

function allocated({ candidates, measured, uniform, evaluations, accepted, layers }: AllocationReport): Allocated {
  return { candidates, measured, uniform, evaluations, accepted, widths: layers.map(({ bits }) => bits) }
}

/** A digest of the tool's source: figures of another state are not comparable. */
export function sourceState(): string {
  const hash = createHash('sha256')
  const source = join(ROOT, 'src')
  for (const file of readdirSync(source, { recursive: true, encoding: 'utf8' }).sort()) {
    if (file.endsWith('.ts')) hash.update(file).update(readFileSync(join(source, file)))
  }
  return hash.digest('hex').slice(0, 12)
}

/** What is kept under a name, undefined when nothing is. Infinite numbers survive. */
export function readKept<T>(model: Pick<MixedModel, 'name'>, name: string): T | undefined {
  const path = join(folderOf(model), `${name}.json`)
  return existsSync(path) ? (fromJson(readFileSync(path, 'utf8')) as T) : undefined
}

export function keep(model: Pick<MixedModel, 'name'>, name: string, value: unknown): void {
  writeFileSync(join(folderOf(model), `${name}.json`), `${toJson(value)}\n`)
}
