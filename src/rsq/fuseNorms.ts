/**
 * @file Gains and biases of norms into the layers that read them: with n the norm without its affine part,
 * W·(γ ∘ n + β) = (W∘γ)·n + W·β (QuaRot, Ashkboos et al. 2024, section 3; SliceGPT, Ashkboos et al. 2024). A gain that is the same
 * for all channels commutes with rotations, and stays.
 */
import type { OnnxModel } from '../onnx/model.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { type AddedBias, addBias } from './addBias.ts'
import type { EditPlan } from './constantEdits.ts'
import { dotVectors, readVectors } from './constantVectors.ts'
import type { ModelDraft } from './modelDraft.ts'
import type { Norm, NormVector, Reader, ResidualStream } from './stream.ts'

/** What of a norm does not commute with rotations. */
export interface NormAffine {
  /** γ [width]; undefined where it is the same for all channels. */
  readonly gain: Float64Array | undefined
  /** β [width]; undefined where it is zero. */
  readonly bias: Float64Array | undefined
}

/** @throws RangeError for a gain or bias of another width. */
export function affineOf(model: Pick<OnnxModel, 'payloads'>, norm: Norm, width: number): NormAffine {
  const gain = norm.gain && valuesOf(model, norm.gain, width)
  const bias = norm.bias && valuesOf(model, norm.bias, width)
  return {
    gain: gain?.every((value) => value === gain[0]) ? undefined : gain,
    bias: bias?.every((value) => value === 0) ? undefined : bias,
  }
}

function valuesOf(model: Pick<OnnxModel, 'payloads'>, { constant }: NormVector, width: number): Float64Array {
  const { tensor } = constant
  if (tensor.dims.length === 0)
    return new Float64Array(width).fill(readVectors(model, { ...tensor, dims: [1n] }, 0)[0]!)
  const values = readVectors(model, tensor, tensor.dims.length - 1)
  if (values.length === 1) return new Float64Array(width).fill(values[0]!)
  if (values.length !== width)
    throw new RangeError(`norm vector ${constant.name}: ${values.length} numbers, not ${width}`)
  return values
}

/** A bias that a reader did not have before. */
interface ReaderBias {
  readonly reader: Reader
  readonly bias: AddedBias
}

/** How many norms gave their gain or bias away, and which biases that made. */
export interface FusedNorms {
  readonly norms: number
  readonly added: readonly ReaderBias[]
}

/**
 * Plan the fusion of a stream's norms; the norms themselves are changed at once.
 * @param isLeft    norms that keep what they have
 * @param isBridged readers in front of which gain and bias are put as a matrix
 * @throws QtoolError `model` when a reader cannot be given a bias
 */
export function fuseNorms(
  draft: ModelDraft,
  plan: EditPlan,
  stream: ResidualStream,
  isLeft: (norm: Norm) => boolean,
  isBridged: (reader: Reader) => boolean,
): FusedNorms {
  const added: ReaderBias[] = []
  let norms = 0
  for (const norm of stream.norms) {
    const { gain, bias } = affineOf(draft.model, draftNorm(draft, norm), stream.width)
    if (isLeft(norm) || (!gain && !bias)) continue
    norms++
    for (const reader of stream.readers) {
      if (reader.norm !== norm || isBridged(reader)) continue
      const { axis, inputIndex } = reader
      const node = draft.nodeOf(reader.node)
      const constant = draft.constantOf(reader.constant)
      if (gain) plan.add(node, inputIndex, constant, axis, { kind: 'scale', gain })
      if (!bias) continue
      const product = dotVectors(draft.model, constant.tensor, axis, bias)
      const made = addBias(draft, plan, { node, inputIndex, constant, axis }, product)
      if (made) added.push({ reader, bias: made })
    }
    if (gain) fillInPlace(draft, norm.gain!, stream.width, 1)
    if (bias) fillInPlace(draft, norm.bias!, stream.width, 0)
  }
  return { norms, added }
}

/** The same norm with the draft's constants, which hold the same. */
function draftNorm(draft: ModelDraft, norm: Norm): Norm {
  const own = (vector: NormVector | undefined) => vector && { ...vector, constant: draft.constantOf(vector.constant) }
  return { ...norm, gain: own(norm.gain), bias: own(norm.bias) }
}

function fillInPlace(draft: ModelDraft, vector: NormVector, width: number, value: 0 | 1): void {
  const node: NodeProto = draft.nodeOf(vector.node)
  const constant = draft.constantOf(vector.constant)
  const path = draft.pathTo(node, vector.inputIndex, constant.name)
  const dims = path.length === 0 ? constant.tensor.dims.map(Number) : [width]
  node.input[vector.inputIndex] = draft.filled(value, draft.typeAt(path, constant), dims)
}
