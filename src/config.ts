/** @file The options of the three operations and their defaults. The one place for both; `configRules.ts` checks them. */
import type { Sensitivity } from './analyze/analysis.ts'
import type { CodebookSettings } from './codebook/codebookForms.ts'
import type { Bits } from './quant/quantizedWeight.ts'
import type { ImportanceName } from './rsq/importance.ts'

export { SENSITIVITIES } from './analyze/analysis.ts'
export { CODEBOOK_NAMES, MAPPINGS } from './codebook/codebookForms.ts'
export { IMPORTANCE_NAMES } from './rsq/importance.ts'

export type Format = 'auto' | 'contrib' | 'standard'
/**
 * `auto`: the best grid of each layer by error, from the weights alone. `rtn`: plain min-max rounding. `gptq`: codes that
 * make up for each other's errors on calibration data; see docs/CONFIG.md. `rsq`: the same after exact rotations of a
 * transformer and with tokens that count by their importance, as far as held-out samples gain by it; see docs/RSQ.md.
 * `codebook`: indices into tables of levels instead of grids, with data or from the weights alone; see docs/CODEBOOKS.md.
 */
type Method = 'auto' | 'rtn' | 'gptq' | 'rsq' | 'codebook'

/** True where layers are solved on data or statistics. */
export function isCalibrated({ method, data, stats }: Pick<QuantizeConfig, 'method' | 'data' | 'stats'>): boolean {
  return method === 'gptq' || method === 'rsq' || (method === 'codebook' && data.length + stats.length > 0)
}
/**
 * `uniform`: one width and group size for all layers. `ilp`: an integer programme. `dp`: the exact dynamic programme.
 * `bisection`: the longest prefix of the layers, in the order of their sensitivity, that keeps `maxKl` and `maxDrop`.
 */
type Solver = 'uniform' | 'ilp' | 'dp' | 'bisection'

/** What becomes of layers that a pattern matches: a glob, or a regular expression between slashes. */
interface LayerSetting {
  readonly pattern: string
  readonly bits: Bits | 'skip'
}

/** How stored uint8 images become the float input of a model: (value · scale − mean[c]) / std[c]. */
export interface Normalize {
  readonly scale: number
  /** One number per channel, or one for all. */
  readonly mean: readonly number[]
  readonly std: readonly number[]
}

/** What applies where only some of the three are given. */
export const NORMALIZE_DEFAULTS: Normalize = { scale: 1, mean: [0], std: [1] }

/** What is read, and how it becomes the inputs of a model: the same for calibration and evaluation. */
export interface DataConfig {
  /** Data files, directories or patterns. */
  readonly data: readonly string[]
  /** Use this many samples; 0 = all. */
  readonly samples: number
  /** Input name → name of the array in the data. */
  readonly rename: Readonly<Record<string, string>>
  /** Input name → the number that fills the whole input. */
  readonly set: Readonly<Record<string, number>>
  /** For uint8 data that feeds a float input. */
  readonly normalize?: Normalize | undefined
  /** Height and width, in pixels, that images are brought to; undefined = what the model or its preprocessor says. */
  readonly imageSize?: readonly [height: number, width: number] | undefined
  /** Order of axes that the image input takes; undefined = seen from its shape. */
  readonly layout?: 'nchw' | 'nhwc' | undefined
  /** Tokens in a sequence that text is cut into; undefined = decided from the model. */
  readonly seqLen?: number | undefined
}

/** How calibration data are used: the same for quantizing and for measuring. */
export interface CalibrationConfig extends DataConfig {
  readonly seed: number
  /** Share of the samples, 0 … 0.5, that no fit sees and that decides between candidates. */
  readonly holdout: number
  /** How the samples are chosen: drawn, or by how much a rounded model disagrees on them. */
  readonly select: 'random' | 'el2n' | 'kl'
  /** What is added to the diagonal of a Hessian, relative to its mean: above 0, at most 1. */
  readonly damping: number
  /** Class labels, one per sample of the data: a .npy, or 'FILE.npz:NAME'. Those of held-out samples alone are used. */
  readonly labels?: string | undefined
  /** Directory for activations that memory cannot hold; undefined = beside the output, or the system's. */
  readonly scratch?: string | undefined
}

/** What may differ from layer to layer, and what decides it. All but the plan go with data or an analysis. */
interface AllocationConfig {
  /** `ilp` under a budget or another limit with held-out data or an analysis, which all but `uniform` need. */
  readonly solver: Solver
  /**
   * Cost vectors: each is solved for an allocation, and with data each allocation is run. None: with an analysis, those
   * that it has.
   */
  readonly sensitivity: readonly Sensitivity[]
  /** File of an analysis, instead of measuring. */
  readonly analysis?: string | undefined
  /** File of an allocation to apply, instead of a budget. */
  readonly plan?: string | undefined
  /** Where the allocation is written. */
  readonly savePlan?: string | undefined
  /** Where the curve of loss over bytes is written. */
  readonly pareto?: string | undefined
  /** Layers that a pattern matches share a choice. */
  readonly tie: readonly string[]
  /** Most that the loss on held-out samples may be: KL in nats, or relative squared error. */
  readonly maxKl?: number | undefined
  /** Most that the accuracy on held-out samples may fall below that of the original: 0.01 = one point; with `labels`. */
  readonly maxDrop?: number | undefined
  /** '0.7x': predicted time of a run over that of the float model, at most. */
  readonly maxLatency?: string | undefined
  /** File of times of products, written where there is none; or of the peaks of a machine that is not here. */
  readonly latency?: string | undefined
  /** Tokens, or rows of a product, that latency counts at. */
  readonly positions: number
  /** Real runs of allocations, at most. */
  readonly evaluations: number
}

/** What method `rsq` tries. */
interface RsqConfig {
  /** Exact rotations of residual streams and heads: kept where held-out samples gain, always, or not tried. */
  readonly rotation: 'auto' | 'on' | 'off'
  /** Random rotations of which the best is taken. */
  readonly rotationSeeds: number
  /** Rotate inputs inside the graph too, where no weight before them can take the rotation: costs time in every run. */
  readonly onlineRotation: boolean
  /** How much each token counts in the statistics: `auto` keeps it where held-out samples gain. */
  readonly tokenImportance: 'auto' | 'none' | ImportanceName
  /** Weight of the least important token over that of the most important, above 0. */
  readonly importanceMin: number
  /** Weights enter Hessians to this power: 1 as in the released code of the paper, 2 as in its text. */
  readonly importanceExponent: 1 | 2
  /** Scores over the number of positions that see a token, or its root. */
  readonly importanceLength: 'none' | 'linear' | 'sqrt'
  /** Scores are clamped at this quantile and at one minus it: 0.5 … 1; 1 for none. */
  readonly importanceQuantile: number
  /** Copies of each fitted sequence, rolled by equal parts of its length; 1 for the sequence itself. */
  readonly roll: number
}

export interface QuantizeConfig extends CalibrationConfig, AllocationConfig, RsqConfig, CodebookSettings {
  /** Budget expressions with commas between, for example '4bit', '4bpw', '350MB', '0.3x', '-60%'. Excludes bits. */
  readonly budget?: string | undefined
  readonly bits?: Bits | undefined
  /** Input columns that share a scale; 'channel' for one scale per output row, which is usual for codebooks. */
  readonly groupSize?: number | 'channel' | undefined
  /**
   * `codebook` where an allocation is measured on data, `gptq` with other data or statistics, which it needs; `rsq` needs data; otherwise `auto` or `rtn`.
   * `codebook` takes data or does without.
   */
  readonly method: Method
  /** Symmetric grids only, asymmetric only, or the better of both. Codebooks have no zero points. */
  readonly symmetric: 'auto' | 'yes' | 'no'
  /** Later entries win. */
  readonly layers: readonly LayerSetting[]
  readonly format: Format
  /** accuracy_level of MatMulNBits: 0 = float activations, 4 = int8 activations (much faster). */
  readonly accuracyLevel: 0 | 4
  /** `auto`: a byte for a scale where that loses less precision than the bytes are worth; `float`: float16, float32 where it must be. */
  readonly scales: 'auto' | 'float'
  /** Where large tensors go: beside the model when the output is large, always, or never. */
  readonly externalData: 'auto' | 'always' | 'never'
  /** Write what onnxruntime would unpack at load unpacked; not with a budget in bytes or stored bits. */
  readonly expand: boolean
  readonly verify: boolean
  readonly dryRun: boolean
  readonly force: boolean
  /** Turn every warning that means "less than asked" into an error. */
  readonly strict: boolean
  /** Files of statistics; several are merged. A single one that does not exist is written, when there is data. */
  readonly stats: readonly string[]
  /** Where progress is saved: a run with the same settings goes on from there. Removed when the run is done. */
  readonly resume?: string | undefined
  /** Worker threads; 0 = number of cores. */
  readonly threads: number
  readonly seed: number
}

export const QUANTIZE_DEFAULTS: QuantizeConfig = {
  method: 'auto',
  symmetric: 'auto',
  layers: [],
  format: 'auto',
  accuracyLevel: 4,
  scales: 'auto',
  externalData: 'auto',
  expand: false,
  verify: true,
  dryRun: false,
  force: false,
  strict: false,
  data: [],
  samples: 256,
  rename: {},
  set: {},
  holdout: 0.2,
  select: 'random',
  stats: [],
  damping: 0.05,
  rotation: 'auto',
  rotationSeeds: 4,
  onlineRotation: false,
  tokenImportance: 'auto',
  importanceMin: 0.01,
  importanceExponent: 1,
  importanceLength: 'none',
  importanceQuantile: 1,
  roll: 1,
  codebook: 'auto',
  rowGroups: 'auto',
  trellisWindow: 'auto',
  mapping: 'descent',
  solver: 'uniform',
  sensitivity: ['kl', 'coverage', 'outputs'],
  tie: [],
  positions: 1,
  evaluations: 24,
  threads: 0,
  seed: 0,
}

/** What applies when neither budget nor bits is given. */
export const DEFAULT_BITS: Bits = 4
export const DEFAULT_GROUP_SIZE = 32

/**
 * Without data an analysis is a table of sizes and rounding errors, and only `groupSize` and `threads` count. With data the
 * model is measured on them. With `merge` the parts of a measurement are joined, and only `output` and `force` count.
 */
export interface AnalyzeConfig extends CalibrationConfig {
  /** Measure this width alone. */
  readonly bits?: Bits | undefined
  readonly groupSize: number | 'channel'
  /** Symmetric grids only, asymmetric only, or the better of both. */
  readonly symmetric: 'auto' | 'yes' | 'no'
  /** Later entries win. A layer with a width has one candidate, one to skip has none. */
  readonly layers: readonly LayerSetting[]
  /** Every width at the group size, or also other group sizes and grids without zero points: for budgets that count scales. */
  readonly candidates: 'widths' | 'all'
  /** Its widths are measured beside the grids; undefined for grids alone. */
  readonly codebook?: CodebookSettings['codebook'] | undefined
  readonly rowGroups: CodebookSettings['rowGroups']
  readonly trellisWindow: CodebookSettings['trellisWindow']
  readonly mapping: CodebookSettings['mapping']
  /** What to measure. */
  readonly sensitivity: readonly Sensitivity[]
  /** Drawn configurations that predictions are judged by; 0 with a shard. */
  readonly configurations: number
  /** Most probes of a trace. */
  readonly probes: number
  /** Where the analysis is written. */
  readonly output?: string | undefined
  /** 'i/n': measure the i-th of n parts of the layers, 1 ≤ i ≤ n. */
  readonly shard?: string | undefined
  /** Files of all parts, to be joined. */
  readonly merge: readonly string[]
  readonly force: boolean
  readonly threads: number
  readonly seed: number
}

export const ANALYZE_DEFAULTS: AnalyzeConfig = {
  groupSize: DEFAULT_GROUP_SIZE,
  symmetric: 'auto',
  layers: [],
  candidates: 'widths',
  rowGroups: 'auto',
  trellisWindow: 'auto',
  mapping: 'descent',
  sensitivity: ['kl'],
  configurations: 24,
  probes: 16,
  data: [],
  samples: 256,
  rename: {},
  set: {},
  holdout: 0.2,
  select: 'random',
  damping: 0.05,
  merge: [],
  force: false,
  threads: 0,
  seed: 0,
}

/** Limits that turn into exit code 1; see docs/CI.md. */
export interface Thresholds {
  readonly maxKl?: number
  readonly minAgreement?: number
  readonly minSqnr?: number
  readonly minCosine?: number
  readonly maxDifference?: number
  /** Accuracy may fall by at most this much (0.01 = one point). */
  readonly maxAccuracyDrop?: number
  /** Perplexity may rise by at most this share (0.01 = one per cent). */
  readonly maxPerplexityRise?: number
  /** Bytes of all candidate files. */
  readonly maxSize?: number
  /** Bytes of memory that loading the candidate and running one batch take at most. */
  readonly maxMemory?: number
  /** Candidate latency over reference latency. */
  readonly maxLatencyRatio?: number
}

/** `data` is empty only with `random`; `samples` counts from the first. */
export interface EvalConfig extends DataConfig {
  /** Make this many random samples instead of reading data. */
  readonly random: number
  /** Class labels: a .npy, or 'FILE.npz:NAME'. */
  readonly labels?: string | undefined
  readonly batchSize: number
  /** Input name → shape of one random feed, batch axis included; for `random` only. */
  readonly shapes: Readonly<Record<string, readonly number[]>>
  /** Outputs that are class or token logits; 'auto' decides by shape and name, an empty list says that none are. */
  readonly logits: 'auto' | readonly string[]
  /** Interleaved latency runs of each model. */
  readonly runs: number
  readonly thresholds: Thresholds
  readonly threads: number
  readonly seed: number
}

export const EVAL_DEFAULTS: EvalConfig = {
  data: [],
  random: 0,
  samples: 0,
  batchSize: 8,
  rename: {},
  set: {},
  shapes: {},
  logits: 'auto',
  runs: 20,
  thresholds: {},
  threads: 0,
  seed: 0,
}
