/**
 * @file Tied weights: a table that is looked up and, transposed, is the head. The final norm's gain must go into the head,
 * and must not into the table. Either the head gets a copy, or the tie is kept by a small matrix before the head: with rows x,
 * x·γ·Eᵀ = (x·Q)·B·(E·Q)ᵀ for B = Qᵀ·diag(γ)·Q, and β·Eᵀ = (β·Q)·(E·Q)ᵀ.
 */
import { intAttribute } from '../onnx/attributes.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { makeNode, type NodeProto } from '../onnx/proto.ts'
import { elementBytes } from '../onnx/tensorData.ts'
import { affineOf, type NormAffine } from './fuseNorms.ts'
import type { ModelDraft } from './modelDraft.ts'
import type { Rotation } from './rotation.ts'
import type { Reader, ResidualStream } from './stream.ts'

/** What becomes of a tie. */
export interface Tie {
  readonly reader: Reader
  /**
   * - `bridge` a width × width matrix before the reader
   * - `copy`   the reader gets a weight of its own
   * - `leave`  the norm keeps its gain; only where the stream is not rotated
   */
  readonly decision: 'bridge' | 'copy' | 'leave'
  /** Bytes that are stored in addition. */
  readonly bytes: number
  readonly affine: NormAffine
}

/** True for a reader whose weight is written to the same stream by another use, along the same axis. */
export function isTied(reader: Reader, { writers }: ResidualStream): boolean {
  return writers.some(
    ({ constant, axis, node, inputIndex }) =>
      constant.name === reader.constant.name &&
      axis === reader.axis &&
      (node !== reader.node || inputIndex !== reader.inputIndex),
  )
}

/**
 * The tied readers behind norms whose gain differs between channels, each with what stores less.
 * @param mustRecentre the table has to lose its mean, which the head needs: no bridge makes up for that.
 */
export function decideTies(
  model: Pick<OnnxModel, 'payloads'>,
  stream: ResidualStream,
  isRotated: boolean,
  mustRecentre: boolean,
): Tie[] {
  return stream.readers.flatMap((reader): Tie[] => {
    if (!reader.norm || !isTied(reader, stream)) return []
    const affine = affineOf(model, reader.norm, stream.width)
    if (!affine.gain) return []
    if (!isRotated) return [{ reader, decision: 'leave', bytes: 0, affine }]
    const { tensor } = reader.constant
    const size = elementBytes(tensor.dataType)!
    const weights = tensor.dims.reduce((a, b) => a * Number(b), 1)
    const isSmaller = stream.width * stream.width < weights
    return isSmaller && !mustRecentre && canBridge(reader)
      ? [{ reader, decision: 'bridge', bytes: stream.width * stream.width * size, affine }]
      : [{ reader, decision: 'copy', bytes: weights * size, affine }]
  })
}

/** True where the channels of the other input of a product lie along its last axis, or its last but one for W·x. */
function canBridge({ node, inputIndex }: Reader): boolean {
  if (node.domain === 'com.microsoft') {
    const plain = ['transA', 'transBatchA', 'transBatchB'].every((name) => intAttribute(node, name, 0) === 0)
    return node.opType === 'FusedMatMul' && inputIndex === 1 && plain
  }
  if (node.domain !== '' && node.domain !== 'ai.onnx') return false
  if (node.opType === 'MatMul') return inputIndex < 2
  return node.opType === 'Gemm' && inputIndex === 1 && intAttribute(node, 'transA', 0) === 0
}

/** B = Qᵀ·diag(γ)·Q [width, width]; symmetric. */
export function bridgeMatrix(gain: Float64Array, rotation: Rotation): Float64Array {
  const { width } = rotation
  const matrix = new Float64Array(width * width)
  for (let i = 0; i < width; i++) matrix[i * (width + 1)] = 1
  rotation.invertInPlace(matrix)
  for (let i = 0; i < matrix.length; i++) matrix[i]! *= gain[i % width]!
  rotation.applyInPlace(matrix)
  return matrix
}

/** Put the matrices, and what the norms add, before the readers. Readers of the same tensor share them. */
export function insertBridgesInPlace(draft: ModelDraft, ties: readonly Tie[], rotation: Rotation): void {
  const made = new Map<string, string>()
  for (const { reader, decision, affine } of ties) {
    if (decision !== 'bridge') continue
    const node = draft.nodeOf(reader.node)
    const input = reader.inputIndex === 1 ? 0 : 1
    // One norm may feed both x·Wᵀ and W·x, which want the matrix on different sides.
    const key = `${input} ${node.input[input]}`
    const known = made.get(key)
    const bridged = known ?? insertBridge(draft, reader, node, input, affine, rotation)
    made.set(key, bridged)
    node.input[input] = bridged
  }
}

function insertBridge(
  draft: ModelDraft,
  reader: Reader,
  node: NodeProto,
  input: number,
  { gain, bias }: NormAffine,
  rotation: Rotation,
): string {
  const { width } = rotation
  const constant = draft.constantOf(reader.constant)
  const type = draft.typeAt(draft.pathTo(node, reader.inputIndex, constant.name), constant)
  const label = `${node.name || node.output[0]}/bridge`
  const matrix = draft.addConstant(`${label}/matrix`, type, [width, width], bridgeMatrix(gain!, rotation)).name
  const x = node.input[input]!
  let output = draft.freshName(label)
  // B is its own transpose: x·B and B·x differ in the side only.
  const added = [
    makeNode('MatMul', input === 0 ? [x, matrix] : [matrix, x], [output], { name: draft.freshName(label) }),
  ]
  if (bias) {
    const rotated = bias.slice()
    rotation.applyInPlace(rotated)
    const dims = input === 0 ? [width] : [width, 1]
    const vector = draft.addConstant(`${label}/bias`, type, dims, rotated).name
    const sum = draft.freshName(`${label}/biased`)
    added.push(makeNode('Add', [output, vector], [sum], { name: sum }))
    output = sum
  }
  draft.insertBefore(node, added)
  return output
}
