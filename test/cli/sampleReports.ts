/** @file Small, complete reports for tests of what the commands print. The figures are made up. */
import type {
  AnalyzeReport,
  EvalReport,
  LayerCalibration,
  LayerInfo,
  OutputComparison,
  QuantizeReport,
} from '../../src/report.ts'

const LONG_NAME = '/encoder/transformer/layers.11/self_attention/query_key_value_projection/MatMul_with_a_long_name'

function layerInfo(name: string, shape: readonly number[], operator = 'MatMul'): LayerInfo {
  const weights = shape.reduce((product, size) => product * size, 1)
  return {
    name,
    weight: `${name}.weight`,
    operators: [operator],
    shape,
    elementType: 'float',
    weights,
    bytes: weights * 4,
    macs: { count: weights, perPosition: true },
  }
}

const LAYERS = [layerInfo(LONG_NAME, [768, 2304]), layerInfo('/head/Conv', [64, 32, 3, 3], 'Conv')]
const LEFT_ALONE = [
  { name: '/norm/Mul', operator: 'Mul', weight: 'norm.weight', bytes: 3072, reason: 'a scale, not a layer' },
  { name: '/rnn/LSTM', operator: 'LSTM', weight: 'rnn.W', bytes: 1_200_000, reason: 'LSTM is not supported' },
  { name: '/norm2/Mul', operator: 'Mul', weight: 'norm2.weight', bytes: 3072, reason: 'a scale, not a layer' },
]

export const ANALYZE_REPORT: AnalyzeReport = {
  schemaVersion: 1,
  kind: 'analyze',
  qtoolVersion: '0.0.0',
  model: {
    path: 'model.onnx',
    totalBytes: 9_000_000,
    files: [{ path: 'model.onnx', bytes: 9_000_000 }],
    irVersion: 8,
    opsets: { '': 17 },
  },
  groupSize: 32,
  layers: LAYERS.map((layer, i) => ({
    ...layer,
    shareOfBytes: layer.bytes / 9_000_000,
    widths: ([8, 6, 5, 4, 3, 2] as const).map((bits) => ({
      bits,
      storedBytes: Math.ceil((layer.weights * bits) / 8) + i,
      relativeError: 4 ** -bits,
    })),
  })),
  leftAlone: LEFT_ALONE,
  totals: {
    weights: 1_787_904,
    weightBytes: 7_151_616,
    leftAloneBytes: 1_206_144,
    otherBytes: 642_240,
    widths: ([8, 6, 5, 4, 3, 2] as const).map((bits) => ({
      bits,
      storedBytes: 223_488 * bits,
      relativeError: 4 ** -bits,
    })),
  },
  analysis: undefined,
  warnings: [],
}

export const QUANTIZE_REPORT: QuantizeReport = {
  schemaVersion: 1,
  kind: 'quantize',
  qtoolVersion: '0.0.0',
  dryRun: false,
  source: {
    path: 'model.onnx',
    totalBytes: 9_000_000,
    files: [{ path: 'model.onnx', bytes: 9_000_000 }],
    sha256: [{ path: 'model.onnx', sha256: '00' }],
  },
  output: { path: 'small.onnx', totalBytes: 2_100_000, files: [{ path: 'small.onnx', bytes: 2_100_000 }] },
  budget: '4bit',
  format: 'auto',
  opset: { from: 13, to: 21 },
  layers: LAYERS.map((layer) => ({
    ...layer,
    bits: 4,
    groupSize: 32,
    scheme: 'asymmetric',
    method: 'clip',
    scaleType: 'float16',
    representations: ['MatMulNBits'],
    storedBytes: Math.ceil((layer.weights * 4.625) / 8),
    bitsPerWeight: 4.625,
    relativeError: 0.00624,
    notes: layer.name === LONG_NAME ? ['K is padded to the group'] : [],
    calibration: undefined,
  })),
  leftAlone: LEFT_ALONE,
  loading: { transientBytes: 0, compactBytes: undefined },
  totals: { weights: 1_787_904, meanBits: 4, bitsPerWeight: 4.625, relativeError: 0.00624, ratio: 2.1 / 9 },
  allocation: undefined,
  calibration: undefined,
  rsq: undefined,
  verified: [{ name: LONG_NAME, representation: 'MatMulNBits', largestDifference: 3e-7, tolerance: 1e-4 }],
  seconds: 1.25,
  warnings: ["layer pattern '*nothing*' matches no layer"],
}

const LAYER_CALIBRATION: LayerCalibration = {
  solver: 'gptq',
  order: 'activation',
  alpha: 0.25,
  biasCorrected: true,
  heldOutError: 0.0031,
  heldOutErrorOfRounding: 0.0068,
  damping: 0.01,
  deadInputs: 2,
  rejected: [{ name: 'round-to-nearest', heldOutError: 0.0068 }],
}

export const CALIBRATED_REPORT: QuantizeReport = {
  ...QUANTIZE_REPORT,
  layers: [
    { ...QUANTIZE_REPORT.layers[0]!, calibration: LAYER_CALIBRATION },
    { ...QUANTIZE_REPORT.layers[1]!, calibration: { ...LAYER_CALIBRATION, alpha: 0, order: 'natural' } },
    {
      ...QUANTIZE_REPORT.layers[1]!,
      calibration: { ...LAYER_CALIBRATION, solver: 'round-to-nearest', order: undefined },
    },
    QUANTIZE_REPORT.layers[1]!,
  ],
  calibration: {
    source: 'calibration.npz',
    samples: 256,
    heldOut: 51,
    positions: 131_072,
    groups: 3,
    stages: 2,
    outputs: [
      { output: 'logits', sqnr: 24.318, kl: 0.00456 },
      { output: 'embedding', sqnr: Number.POSITIVE_INFINITY, kl: undefined },
    ],
    notes: ['3 samples are longer than 512 tokens and were cut'],
  },
}

const OUTPUT: OutputComparison = {
  output: 'logits',
  shape: [1, 40, 6625],
  values: 265_000,
  kl: { mean: 0.00123, standardError: 0.00004, median: 0.0009, p95: 0.004, p99: 0.009, max: 0.02 },
  top1Agreement: 0.975,
  sqnr: 31.4159,
  cosine: 0.99991,
  maxAbsoluteDifference: 0.25,
}

export const EVAL_REPORT: EvalReport = {
  schemaVersion: 1,
  kind: 'eval',
  qtoolVersion: '0.0.0',
  reference: { path: 'model.onnx', totalBytes: 9_000_000, files: [{ path: 'model.onnx', bytes: 9_000_000 }] },
  candidate: { path: 'small.onnx', totalBytes: 2_100_000, files: [{ path: 'small.onnx', bytes: 2_100_000 }] },
  data: { source: 'data.npz', samples: 40, random: false, filledInputs: ['attention_mask'] },
  outputs: [
    OUTPUT,
    { ...OUTPUT, output: 'embedding', kl: undefined, top1Agreement: undefined, sqnr: Number.POSITIVE_INFINITY },
  ],
  metrics: [
    {
      name: 'accuracy',
      output: 'logits',
      reference: 0.91,
      candidate: 0.9,
      change: -0.01,
      standardError: 0.004,
      count: 400,
    },
    {
      name: 'perplexity',
      output: 'logits',
      reference: 20,
      candidate: 21,
      change: 0.05,
      standardError: 0.01,
      count: 900,
    },
  ],
  loadMilliseconds: { reference: 40, candidate: 25 },
  latencyMilliseconds: { reference: 8.5, candidate: 3.2, runs: 20 },
  memoryBytes: {
    reference: { loaded: 30_000_000, peak: 40_000_000 },
    candidate: { loaded: 9_000_000, peak: 60_000_000 },
  },
  execution: [
    { node: 'a', operator: 'MatMulNBits', status: 'low-bit kernel' },
    { node: 'b', operator: 'DequantizeLinear', status: 'dequantized every run' },
  ],
  accuracyLevels: [{ level: 0, outputs: [OUTPUT], metrics: [] }],
  thresholds: [
    { name: 'maxKl', limit: 0.001, measured: 0.00123, passed: false },
    { name: 'maxSize', limit: 5_000_000, measured: 2_100_000, passed: true },
  ],
  passed: false,
  warnings: [],
}

const candidate = (bits: 8 | 4 | 2, loss: number, groupSize = 32) => ({
  bits,
  groupSize,
  symmetric: 'auto' as const,
  loss,
  standardError: loss / 10,
  storedBytes: 1000 * bits,
})

export const MEASURED_REPORT: AnalyzeReport = {
  ...ANALYZE_REPORT,
  analysis: {
    metric: 'kl',
    samples: { fitted: 205, heldOut: 51 },
    layers: [
      { name: LONG_NAME, candidates: [candidate(8, 1e-5), candidate(4, 0.004), candidate(2, 0.3)] },
      { name: '/fixed/MatMul', candidates: [candidate(8, 2)] },
      {
        name: '/head/Conv',
        candidates: [candidate(8, -1e-6), candidate(4, 0.02, 64), candidate(4, 0.01), candidate(2, 0.9)],
      },
    ],
    agreements: [
      { sensitivity: 'kl', rSquared: 0.71, spearman: 0.93 },
      { sensitivity: 'coverage', rSquared: 0.98, spearman: undefined },
    ],
    blocks: [{ name: 'block 1', layers: [LONG_NAME, '/head/Conv'], lim: -0.87, zd: undefined }],
    path: 'analysis.json',
  },
}

export const ALLOCATED_REPORT: QuantizeReport = {
  ...CALIBRATED_REPORT,
  allocation: {
    solver: 'ilp',
    sensitivities: ['kl', 'coverage'],
    metric: 'kl',
    constraints: [
      { name: 'mean bits', limit: 4, used: 3.987654 },
      { name: 'bytes', limit: 2_200_000, used: 2_100_000 },
    ],
    candidates: [
      { from: 'kl', predicted: 0.0123, measured: 0.0131, chosen: false },
      { from: 'coverage', predicted: 0.0119, measured: 0.0128, chosen: true },
    ],
    measured: 0.0121,
    bound: 0.0118,
    gap: 0.0084,
    evaluations: 60,
    accepted: 3,
    uniform: { bits: 4, measured: 0.025 },
    layers: [
      { name: 'a', bits: 8, groupSize: 32, symmetric: 'auto' },
      { name: 'b', bits: 4, groupSize: 64, symmetric: 'yes' },
      { name: 'c', bits: 4, groupSize: 'channel', symmetric: 'auto' },
      { name: 'd', bits: 2, groupSize: 32, symmetric: 'auto' },
    ],
    pareto: [
      { budget: '3bit', bytes: 1_700_000, predicted: 0.05, measured: undefined },
      { budget: '4bit', bytes: 2_100_000, predicted: 0.0119, measured: 0.0121 },
    ],
  },
}
