/** @file What `rsq.ts` measures: models, widths, ways of quantizing, and how much better than the solver alone they must be. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { IMPORTANCE_NAMES, type QuantizeConfig } from '../src/config.ts'
import type { Bits } from '../src/quant/quantizedWeight.ts'
import { type BenchModel, findModels } from './modelList.ts'
import { OUT } from './paths.ts'
import { QUALITY_MODELS, type QualityModel, type QualityRow } from './qualityModels.ts'

/** What RSQ must reach, as a mean over seeds. */
export interface RsqTarget {
  /** Its loss over that of the solver alone, at most. */
  readonly ratio?: number
  /** Its loss over that of RSQ on the model that this one is a change of basis of, at most. */
  readonly ofOriginal?: number
  /** The task's metric is not worse than the solver's. */
  readonly metric?: true
}

export interface RsqRow extends Omit<QualityRow, 'target'> {
  readonly symmetric: 'yes' | 'no'
  readonly wanted: RsqTarget
}

export interface RsqModel {
  readonly name: string
  /** Never the evaluation data. */
  readonly calibration: QualityModel['calibration']
  /** Rows of a run of the models when they are judged. */
  readonly batch: number
  /** Drawn samples, held-out part and signs of rotations differ between seeds. */
  readonly seeds: number
  /** What is measured unless `--arms` says otherwise. */
  readonly arms: readonly string[]
  /** Name of the model that this one is a change of basis of. */
  readonly original?: string
  readonly rows: readonly RsqRow[]
}

const importanceArm = (tokenImportance: (typeof IMPORTANCE_NAMES)[number]): Partial<QuantizeConfig> => ({
  method: 'rsq',
  rotation: 'off',
  tokenImportance,
})

/** Ways of quantizing, by name: the solver, rotation alone, each strategy of importance alone, and what `rsq` chooses. */
export const RSQ_ARMS: Readonly<Record<string, Partial<QuantizeConfig>>> = {
  solver: { method: 'gptq' },
  rotation: { method: 'rsq', rotation: 'on', tokenImportance: 'none' },
  ...Object.fromEntries(IMPORTANCE_NAMES.map((name) => [name, importanceArm(name)])),
  rsq: { method: 'rsq' },
}

const ALL = Object.keys(RSQ_ARMS)
/** Where a run takes long, or there are no scores for the strategies. */
const WITHOUT_STRATEGIES = ['solver', 'rotation', 'rsq']

/** The paper's setting: symmetric grids, one scale per output. */
const channel = (bits: Bits, wanted: RsqTarget = {}, scope: RsqRow['scope'] = 'MatMul'): RsqRow => ({
  ...{ bits, groupSize: 'channel', scope, symmetric: 'yes', wanted },
})

const group = (bits: Bits, groupSize: number, wanted: RsqTarget, scope: RsqRow['scope'] = 'MatMul'): RsqRow => ({
  ...{ bits, groupSize, scope, symmetric: 'no', wanted },
})

function likeQuality(name: string): Pick<RsqModel, 'calibration' | 'batch'> {
  const found = QUALITY_MODELS.find((model) => model.name === name)
  if (!found) throw new Error(`qualityModels.ts has no ${name}`)
  return { calibration: found.calibration, batch: found.batch }
}

const PRINCIPAL: RsqTarget = { ratio: 0.25, ofOriginal: 1.08 }
const NOT_WORSE: RsqTarget = { ratio: 1, metric: true }

export const RSQ_MODELS: readonly RsqModel[] = [
  {
    ...{ name: 'lm-3m', ...likeQuality('lm-3m'), seeds: 5, arms: ALL },
    rows: [channel(3, { ratio: 0.97 }), channel(4, { ratio: 1 }), group(2, 64, { ratio: 0.97 })],
  },
  {
    ...{ name: 'lm-3m-principal', ...likeQuality('lm-3m'), seeds: 5, arms: ALL, original: 'lm-3m' },
    rows: [channel(3, PRINCIPAL), channel(4, PRINCIPAL)],
  },
  {
    ...{ name: 'stories260K', ...likeQuality('stories260K'), seeds: 5, arms: ALL },
    rows: [channel(3, { ratio: 0.97 }), group(2, 64, { ratio: 0.97 })],
  },
  {
    name: 'smollm2',
    calibration: { data: [join(OUT, 'smollm2', 'calibration.npy')], samples: 0 },
    ...{ batch: 2, seeds: 1, arms: WITHOUT_STRATEGIES },
    rows: [channel(3, { ratio: 0.8 })],
  },
  {
    ...{ name: 'use-lite', ...likeQuality('use-lite'), seeds: 1, arms: WITHOUT_STRATEGIES },
    rows: [channel(3, NOT_WORSE, 'all'), group(4, 32, NOT_WORSE, 'all')],
  },
]

const made = (name: string, folder: string, data: string): BenchModel => ({
  ...{ name, path: join(OUT, folder, 'model.onnx'), data, samples: 0, options: [] },
  // Measured on the way; nobody has published it.
  task: { name: 'perplexity', fp32: Number.NaN },
})

/** Models that a script makes, and which. */
const MADE: Readonly<Record<string, { readonly model: BenchModel; readonly script: string }>> = {
  'lm-3m-principal': { model: made('lm-3m-principal', 'lm-3m-principal', 'lm-3m'), script: 'bench/principalAxes.ts' },
  smollm2: { model: made('smollm2', 'smollm2', 'smollm2'), script: 'bench/exportSmolLM2.py' },
}

/** Where a model lies and what it is judged by; a line on stderr and undefined when it is not here. */
export function findRsqModel(name: string): BenchModel | undefined {
  const own = MADE[name]
  if (!own) return findModels([name])[0]
  if (existsSync(own.model.path)) return own.model
  console.error(`skipped ${name}: ${own.script} makes it`)
  return undefined
}

/** Names a row for `--only`: lm-3m/3b/channel/MatMul. */
export function rsqRowName(model: string, { bits, groupSize, scope }: RsqRow): string {
  return [model, `${bits}b`, groupSize === 'channel' ? groupSize : `g${groupSize}`, scope].join('/')
}

/**
 * Names of arms as `--arms` has them; `importance` stands for all strategies.
 * @throws Error for one that is not known.
 */
export function readArms(text: string): readonly string[] {
  return text.split(',').flatMap((word) => {
    if (word === 'importance') return IMPORTANCE_NAMES
    if (!Object.hasOwn(RSQ_ARMS, word)) throw new Error(`--arms: ${word} is none of ${ALL.join(', ')}, importance`)
    return word
  })
}
