/**
 * @file Which operators of the default domain changed their meaning in which opset, from 7 to 26.
 *
 * How the table came about: every two consecutive versions of every operator's schema (ONNX 1.23) were compared field by
 * field — attributes with their types and defaults, inputs, outputs, allowed types — and sentence by sentence where the
 * description differs. A version is listed when a node written for the version before may compute something else under
 * it or be invalid: an attribute became an input or went, a default changed, the description changed the result.
 * Not listed, because nodes written before keep their meaning: more types, new optional inputs, outputs and attributes
 * whose defaults are the old behaviour, values that were errors before, descriptions in better words. Erf lost its
 * integer types in 13; no runtime ran them, so it is not listed.
 */
import {
  all,
  always,
  dftAxis,
  dropoutMask,
  dropoutRatio,
  floatsToInputs,
  gridSampleModes,
  hasOutputFrom,
  integersToInputs,
  isListed,
  isSet,
  type OpsetChange,
  onlySpatialStatistics,
  renamed,
  resizeScalesOrSizes,
  roiAlignUnshifted,
  softmaxAlongOneAxis,
  splitCount,
  textAttribute,
  when,
} from './opsetChanges.ts'
import { DataType, type NodeProto } from './proto.ts'

/** The table says nothing about changes up to this opset, */
export const OLDEST_OPSET = 7
/** nor about changes after this one. */
export const LATEST_OPSET = 26

/** Operators whose whole history was compared. About any other name nothing can be said. */
const KNOWN: ReadonlySet<string> = new Set(
  `Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
  Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu
  CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger ConvTranspose
  Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum
  Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
  GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid
  HardSwish Hardmax Identity If ImageDecoder InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu
  Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool
  Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss
  NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement OptionalHasElement Or PRelu Pad Pow QLinearConv
  QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
  Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
  ReduceSumSquare RegexFullMatch Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter
  ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
  SequenceLength SequenceMap Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax SoftmaxCrossEntropyLoss Softplus
  Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat StringNormalizer StringSplit Sub Sum Swish Tan
  Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
  SimplifiedLayerNormalization`.split(/\s+/), // The last one is onnxruntime's own, without versions.
)

/** Not a change of meaning: onnxruntime (1.30 to 1.32, CPU) has no kernel for this version, so no model could be run. */
const notImplemented = always('onnxruntime does not implement this version of the operator')

const axesToInput = integersToInputs({ axes: 1 })
const ceilMode = when(
  (node) => isSet(node, 'ceil_mode'),
  'with ceil_mode windows that start in the padding are left out',
)

const CHANGES: Readonly<Record<string, Readonly<Record<number, OpsetChange>>>> = {
  Attention: {
    24: when(
      (node) => isSet(node, 'is_causal') || hasOutputFrom(node, 3),
      'the causal mask and the fourth output are defined in other words',
    ),
    25: notImplemented,
  },
  AveragePool: { 22: ceilMode },
  BatchNormalization: {
    9: onlySpatialStatistics,
    14: when((node) => hasOutputFrom(node, 1), 'more than one output means training, which changed'),
  },
  Cast: {
    24: when(
      (node) => FLOAT8.has(Number(node.attribute.find((a) => a.name === 'to')?.i)),
      'infinity is cast to another 8-bit float',
    ),
  },
  CastLike: { 24: always('infinity is cast to another 8-bit float, and the target type is not known') },
  Clip: { 11: floatsToInputs({ min: 1, max: 2 }, () => false) },
  ConvTranspose: {
    11: when(
      (node) => isListed(node, 'output_shape') || (textAttribute(node, 'auto_pad') ?? '').startsWith('SAME'),
      'output_shape and auto_pad put an odd padding on the other side',
    ),
  },
  DFT: { 20: dftAxis },
  Dropout: { 10: dropoutMask, 12: all(dropoutMask, dropoutRatio) },
  GlobalLpPool: { 22: notImplemented },
  GridSample: { 20: gridSampleModes },
  GroupNormalization: { 21: always('scale and bias are per channel instead of per group') },
  Hardmax: { 13: softmaxAlongOneAxis },
  LogSoftmax: { 13: softmaxAlongOneAxis },
  MaxPool: { 22: ceilMode },
  MaxRoiPool: { 22: notImplemented },
  Multinomial: { 22: notImplemented },
  OneHot: { 11: always('negative indices are classes counted from the end instead of no class') },
  Pad: {
    // Zero is the default, and the other modes do not read the value.
    11: all(
      integersToInputs({ pads: 1 }),
      floatsToInputs({ value: 2 }, (value, node) => value === 0 || !padsByValue(node)),
    ),
  },
  RandomNormal: { 22: notImplemented },
  RandomNormalLike: { 22: notImplemented },
  RandomUniform: { 22: notImplemented },
  RandomUniformLike: { 22: notImplemented },
  ReduceL1: { 18: axesToInput },
  ReduceL2: { 18: axesToInput },
  ReduceLogSum: { 18: axesToInput },
  ReduceLogSumExp: { 18: axesToInput },
  ReduceMax: { 18: axesToInput },
  ReduceMean: { 18: axesToInput },
  ReduceMin: { 18: axesToInput },
  ReduceProd: { 18: axesToInput },
  ReduceSum: { 13: axesToInput },
  ReduceSumSquare: { 18: axesToInput },
  Resize: {
    11: always('sampling positions were not defined before coordinate_transformation_mode'),
    13: resizeScalesOrSizes,
  },
  RoiAlign: { 16: roiAlignUnshifted, 22: notImplemented },
  Scan: { 9: always('the batch dimension and sequence_lens are gone') },
  Scatter: { 11: renamed('ScatterElements') },
  Slice: { 10: integersToInputs({ starts: 1, ends: 2, axes: 3 }) },
  Softmax: { 13: softmaxAlongOneAxis },
  Split: { 13: integersToInputs({ split: 1 }), 18: splitCount },
  Squeeze: { 13: axesToInput },
  TopK: { 10: integersToInputs({ k: 1 }) },
  Unsqueeze: { 13: axesToInput },
  Upsample: {
    9: always('scales became an input'),
    10: always('the operator was removed'),
  },
}

const FLOAT8: ReadonlySet<number> = new Set([
  DataType.FLOAT8E4M3FN,
  DataType.FLOAT8E4M3FNUZ,
  DataType.FLOAT8E5M2,
  DataType.FLOAT8E5M2FNUZ,
])

function padsByValue(node: NodeProto): boolean {
  return (textAttribute(node, 'mode') ?? 'constant') === 'constant'
}

/** True for the operators whose history this file holds. */
export function isKnownOperator(opType: string): boolean {
  return KNOWN.has(opType)
}

/** Incompatible changes of an operator in the opsets (from, to], the oldest first. */
export function changesBetween(opType: string, from: number, to: number): { version: number; change: OpsetChange }[] {
  return Object.entries(CHANGES[opType] ?? {})
    .map(([version, change]) => ({ version: Number(version), change }))
    .filter(({ version }) => version > from && version <= to)
}

/** Least `ir_version` of a model that imports each opset of the default domain, from 7 on (ONNX's table of releases). */
const IR_VERSIONS = [3, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8, 8, 9, 9, 10, 10, 11, 12, 13, 13]

/** @param opset at most {@link LATEST_OPSET}; older ones than {@link OLDEST_OPSET} count as that. */
export function irVersionOf(opset: number): number {
  return IR_VERSIONS[Math.max(opset - OLDEST_OPSET, 0)]!
}
