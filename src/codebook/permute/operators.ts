/** @file Operators that treat every channel alike and keep channels apart. */
import type { NodeProto } from '../../onnx/proto.ts'
import { isDefaultDomain } from '../../onnx/ranks.ts'

const words = (text: string): ReadonlySet<string> => new Set(text.split(/\s+/))

/** Element by element, of one tensor. Further inputs (bounds of Clip) hold one number. */
const UNARY =
  words(`Relu LeakyRelu Elu Selu Celu Clip Sigmoid Tanh Erf Gelu HardSigmoid HardSwish Swish Mish Softplus Softsign
  ThresholdedRelu Exp Log Sqrt Reciprocal Neg Abs Sign Floor Ceil Round Identity Cast Dropout`)

/** Element by element, of several tensors that broadcast. */
const COMBINING = words('Add Sub Sum Mean Min Max Mul Div Pow PRelu')
/** Of these, the ones whose terms stand for the same thing: with data of other layers they make a residual stream. */
const ADDITIVE = words('Add Sub Sum Mean Min Max')

/** com.microsoft: an activation, with an optional vector at input 1 that is added before. */
const BIASED_ACTIVATIONS = words('BiasGelu FastGelu')
const CONTRIB_ACTIVATIONS = words('Gelu QuickGelu')

/** Channel by channel, where axis 1 is that of the channels. */
const POOLS = words('MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool')

/** The first output has the shape of the first input. */
export const KEEPS_SHAPE: ReadonlySet<string> = new Set([...UNARY, 'BatchNormalization'])

/** How a node works on channels, as far as that does not depend on its axes. */
type Kind = 'unary' | 'combining' | 'pool' | 'batchNorm' | 'other'

export function kindOf({ domain, opType }: NodeProto): Kind {
  if (domain === 'com.microsoft') {
    if (BIASED_ACTIVATIONS.has(opType)) return 'combining'
    return CONTRIB_ACTIVATIONS.has(opType) ? 'unary' : 'other'
  }
  if (!isDefaultDomain(domain)) return 'other'
  if (UNARY.has(opType)) return 'unary'
  if (COMBINING.has(opType)) return 'combining'
  if (POOLS.has(opType)) return 'pool'
  return opType === 'BatchNormalization' ? 'batchNorm' : 'other'
}

export function isAdditive({ opType }: NodeProto): boolean {
  return ADDITIVE.has(opType)
}

/** A node in messages. */
export function called({ domain, opType, name, output }: NodeProto): string {
  return `${isDefaultDomain(domain) ? opType : `${domain}.${opType}`} '${name || output[0]}'`
}
