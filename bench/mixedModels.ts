/** @file What `mixed.ts` measures: models, calibration data, budgets, and how much better than uniform widths they must be. */
import type { Bits } from '../src/quant/quantizedWeight.ts'
import { prepareData } from './data.ts'
import { QUALITY_MODELS, type QualityModel } from './qualityModels.ts'

/** A budget for mixed widths, beside one width for all. */
export interface MixedRow {
  /** As `--budget` takes it. */
  readonly budget: string
  readonly uniform: Bits
  /** Loss of mixed widths over that of the uniform ones, at most. Below 1, so that none may be worse. */
  readonly limit: number
}

export interface MixedModel {
  /** As in modelList.ts. */
  readonly name: string
  /** Never the evaluation data. Made when it is asked for. */
  readonly calibration: () => QualityModel['calibration']
  /** Rows of a run of the models when they are judged. */
  readonly batch: number
  readonly groupSize: number | 'channel'
  readonly rows: readonly MixedRow[]
  /** Sensitivities are compared on it. */
  readonly orders: boolean
}

/** Budgets that allocations of each sensitivity are compared at. */
export const ORDER_BUDGETS: readonly string[] = ['4bit', '3.5bit', '3bit', '2.5bit']

const row = (budget: string, uniform: Bits, limit: number): MixedRow => ({ budget, uniform, limit })

const USUAL = [row('4bit', 4, 0.8), row('3bit', 3, 0.65)]

/** Data, batches and the group size of the model's first row in `quality.ts`. */
function likeQuality(name: string, rows: readonly MixedRow[], orders = false): MixedModel {
  const found = QUALITY_MODELS.find((model) => model.name === name)
  if (!found) throw new Error(`qualityModels.ts has no ${name}`)
  const { calibration, batch } = found
  return { name, calibration: () => calibration, batch, groupSize: found.rows[0]!.groupSize, rows, orders }
}

export const MIXED_MODELS: readonly MixedModel[] = [
  likeQuality('lm-3m', [row('4bit', 4, 0.56), row('3bit', 3, 0.6), row('2.5bit', 2, 0.25)], true),
  likeQuality('stories260K', USUAL, true),
  likeQuality('use-lite', USUAL),
  likeQuality('resnet20', USUAL, true),
  likeQuality('tiny-darknet', USUAL),
  likeQuality('char-lstm', USUAL),
  {
    name: 'PP-OCRv4 rec',
    calibration: () => ({ data: [prepareData('ocr-rec-calibration').inputs], samples: 64 }),
    batch: 8,
    groupSize: 32,
    rows: USUAL,
    orders: false,
  },
]
