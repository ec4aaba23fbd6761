/** @file What `quality.ts` measures: models, calibration data, widths, and the figures that must be reached. */
import { join } from 'node:path'
import { type DataConfig, NORMALIZE_DEFAULTS, type QuantizeConfig } from '../src/config.ts'
import { modelLayers } from '../src/onnx/layers.ts'
import { loadModel } from '../src/onnx/load.ts'
import type { Bits } from '../src/quant/quantizedWeight.ts'
import { SHARED_MODELS } from './paths.ts'

/** What the calibrated model must reach. `ratio`: its KL over that of round-to-nearest. */
export interface Target {
  readonly kind: 'ratio at most' | 'at most' | 'at least' | 'no loss'
  /** Not used by 'no loss', whose limit is the float model's figure. */
  readonly limit: number
}

export interface QualityRow {
  readonly bits: Bits
  readonly groupSize: number | 'channel'
  /** Operator whose weights are quantized; all others stay float. */
  readonly scope: 'MatMul' | 'Conv' | 'all'
  readonly target?: Target
}

export interface QualityModel {
  /** As in modelList.ts. */
  readonly name: string
  /** Never the evaluation data. `samples` counts the held-out ones too. */
  readonly calibration: Pick<DataConfig, 'data' | 'samples'> & Partial<DataConfig>
  /** Rows of a run of the models when they are judged. */
  readonly batch: number
  readonly rows: readonly QualityRow[]
}

const shared = (path: string): string[] => [join(SHARED_MODELS, path)]
const ratio = (limit: number): Target => ({ kind: 'ratio at most', limit })
const atMost = (limit: number): Target => ({ kind: 'at most', limit })
const atLeast = (limit: number): Target => ({ kind: 'at least', limit })
const noLoss: Target = { kind: 'no loss', limit: 0 }

const row = (
  bits: Bits,
  groupSize: number | 'channel',
  scope: QualityRow['scope'] = 'all',
  target?: Target,
): QualityRow => ({ bits, groupSize, scope, ...(target ? { target } : {}) })

/** The same widths with every layer quantized, where the target is about some of them only. */
const andAll = (rows: readonly QualityRow[], keepTarget = false): QualityRow[] => [
  ...rows,
  ...rows.map(({ bits, groupSize, target }) => row(bits, groupSize, 'all', keepTarget ? target : undefined)),
]

const CIFAR: QualityModel['calibration'] = {
  data: shared('cifar10/calib_u8.npz'),
  samples: 512,
  rename: { input: 'images' },
  normalize: { scale: 1 / 255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
}

const cifar = (name: string, rows: readonly QualityRow[]): QualityModel => ({
  name,
  calibration: CIFAR,
  batch: 50,
  rows,
})

const RESNET20 = [row(3, 'channel', 'Conv', atLeast(0.912)), row(2, 'channel', 'Conv', atLeast(0.902))]

export const QUALITY_MODELS: readonly QualityModel[] = [
  {
    name: 'lm-3m',
    calibration: { data: shared('lm-3m/calib_input_ids.npy'), samples: 256 },
    batch: 8,
    rows: andAll([
      row(4, 32, 'MatMul', ratio(0.45)),
      row(4, 128, 'MatMul', ratio(0.46)),
      row(3, 32, 'MatMul', ratio(0.47)),
      row(2, 32, 'MatMul', ratio(0.46)),
    ]),
  },
  {
    name: 'stories260K',
    calibration: { data: shared('stories260K/calib_input_ids.npy'), samples: 256 },
    batch: 8,
    rows: andAll([row(4, 32, 'MatMul', atMost(4.1)), row(3, 32, 'MatMul', atMost(5.5))], true),
  },
  {
    name: 'char-lstm',
    calibration: { data: shared('char-lstm/calib_ids.npy'), samples: 32 },
    batch: 8,
    rows: [row(4, 32, 'all', atMost(4.3)), row(3, 32)],
  },
  {
    name: 'use-lite',
    calibration: { data: shared('use-lite/calib.npz'), samples: 256 },
    batch: 100,
    rows: [row(4, 32), row(3, 32)],
  },
  {
    name: 'tiny-darknet',
    calibration: {
      data: shared('tiny-darknet/calib_u8.npz'),
      samples: 128,
      rename: { input: 'images' },
      normalize: { ...NORMALIZE_DEFAULTS, scale: 1 / 255 },
    },
    batch: 10,
    rows: [row(4, 'channel', 'all', atLeast(0.635)), row(3, 'channel', 'all', atLeast(0.58))],
  },
  cifar('resnet20', andAll(RESNET20)),
  cifar('resnet20_bn', RESNET20),
  cifar('resnet56', [row(3, 'channel', 'Conv'), row(2, 'channel', 'Conv')]),
  {
    name: 'kws',
    calibration: { data: shared('kws/calib.npz'), samples: 100, rename: { input: 'features' } },
    batch: 50,
    rows: [row(4, 'channel', 'all', noLoss), row(4, 32, 'all', noLoss), row(3, 32)],
  },
]

/** Names a row for `--only`: lm-3m/4b/g32/MatMul. */
export function rowName(model: QualityModel, { bits, groupSize, scope }: QualityRow): string {
  return [model.name, `${bits}b`, groupSize === 'channel' ? 'channel' : `g${groupSize}`, scope].join('/')
}

/** `layers` of the configuration that leaves every layer out of `scope` alone. */
export function scopeLayers(path: string, scope: QualityRow['scope']): QuantizeConfig['layers'] {
  if (scope === 'all') return []
  return modelLayers(loadModel(path).proto)
    .layers.filter(({ uses }) => uses.some(({ node }) => node.opType !== scope))
    .map(({ name }) => ({ pattern: name, bits: 'skip' as const }))
}
