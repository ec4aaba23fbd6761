/**
 * @file Turns residual streams: v ← v·Q on all that is written to a stream and on all that reads it, with the norms' affine parts out
 * of the way. The model computes the same (QuaRot, Ashkboos et al. 2024; SliceGPT, Ashkboos et al. 2024, theorem 1).
 */

import type { Constant } from '../onnx/graph.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { applyEditsInPlace, type CopiedConstant, EditPlan } from './constantEdits.ts'
import { type FusedNorms, fuseNorms } from './fuseNorms.ts'
import { ModelDraft } from './modelDraft.ts'
import { canRecentre, canSimplify, simplifyNormsInPlace } from './recentre.ts'
import type { Rotation } from './rotation.ts'
import type { FoundStreams, ResidualStream } from './stream.ts'
import { decideTies, insertBridgesInPlace, isTied, type Tie } from './tiedWeights.ts'

/** Largest change of an entry of the ones vector by a rotation that is said to keep it. */
const KEEPS_ONES_TO = 1e-9

export interface RotateOptions {
  /**
   * LayerNorms become onnxruntime's norms without a mean where that is possible, so that any rotation is. Where a tie is kept
   * by a bridge and the rotation keeps the ones vector, they stay.
   */
  readonly simplifyNorms: boolean
}

/** What was done to a stream. */
interface RotatedStream {
  readonly stream: ResidualStream
  /** Norms whose gain or bias went into readers. */
  readonly fusedNorms: number
  /** Biases that readers did not have before. */
  readonly addedBiases: number
  /** Writers that lost the mean over the channels. */
  readonly recentredWriters: number
  readonly simplifiedNorms: number
  readonly ties: readonly Pick<Tie, 'reader' | 'decision' | 'bytes'>[]
}

export interface RotatedModel {
  /** A new model; the source and its tensors are as they were. */
  readonly model: OnnxModel
  readonly streams: readonly RotatedStream[]
  /** Constants that are stored once more, tied ones among them. */
  readonly copies: readonly CopiedConstant[]
}

/** One writer or reader of the draft. */
interface Use {
  readonly node: NodeProto
  readonly inputIndex: number
  readonly constant: Constant
  readonly axis: number
}

/** How a stream will be turned. */
interface StreamPlan {
  readonly stream: ResidualStream
  readonly rotation: Rotation | undefined
  readonly ties: readonly Tie[]
  readonly recentres: boolean
  readonly simplifies: boolean
}

/**
 * Rotate streams of a model. Names of nodes and constants stay, but for new ones; outputs of the model keep their names.
 *
 * @param found     in this model
 * @param rotations streams that are changed; with undefined, norms are fused and writers recentred only. A stream that is
 *   not in it stays as it is.
 * @throws RangeError when a rotation has another width than its stream, or does not keep the ones vector where LayerNorms stay; when
 *   a stream is not of this model
 * @throws QtoolError `numeric` when a number does not fit the type of its tensor, `model` when a layer cannot be given
 *   the bias of its norm
 */
export function rotateStreams(
  model: OnnxModel,
  found: FoundStreams,
  rotations: ReadonlyMap<ResidualStream, Rotation | undefined>,
  options: RotateOptions,
): RotatedModel {
  for (const stream of rotations.keys()) {
    if (!found.streams.includes(stream)) throw new RangeError('a rotation is for a stream that was not found')
  }
  const plans = found.streams
    .filter((stream) => rotations.has(stream))
    .map((stream) => planStream(model, stream, rotations.get(stream), options))
  const draft = new ModelDraft(model)
  const edits = new EditPlan()
  // Fusion comes first for all streams: a layer may read one stream and write to another.
  const fused = plans.map(({ stream, rotation, ties }) => {
    checkOutputs(draft, stream)
    const left = new Set(ties.filter(({ decision }) => decision === 'leave').map(({ reader }) => reader.norm))
    const bridged = new Set(ties.filter(({ decision }) => decision === 'bridge').map(({ reader }) => reader))
    const result = fuseNorms(
      draft,
      edits,
      stream,
      (norm) => left.has(norm),
      (reader) => bridged.has(reader),
    )
    if (rotation) insertBridgesInPlace(draft, ties, rotation)
    return result
  })
  const newBiases = fused.flatMap(({ added }) => added)
  const recentred = plans.map((plan) => planEdits(draft, edits, plan, newBiases))
  const names = touchedNames(draft, edits, plans)
  const copies = applyEditsInPlace(draft, edits)
  for (const { stream, simplifies } of plans) if (simplifies) simplifyNormsInPlace(draft, stream)
  draft.dropUnread(names)
  return {
    model: draft.model,
    copies,
    streams: plans.map(({ stream, ties, simplifies }, i) => ({
      stream,
      fusedNorms: fused[i]!.norms,
      addedBiases: fused[i]!.added.length,
      recentredWriters: recentred[i]!,
      simplifiedNorms: simplifies ? stream.norms.length : 0,
      ties: ties.map(({ reader, decision, bytes }) => ({ reader, decision, bytes })),
    })),
  }
}

function planStream(
  model: OnnxModel,
  stream: ResidualStream,
  rotation: Rotation | undefined,
  { simplifyNorms }: RotateOptions,
): StreamPlan {
  if (rotation && rotation.width !== stream.width) {
    throw new RangeError(`a rotation of width ${rotation.width} for a stream of ${stream.width} channels`)
  }
  const simplifiable = simplifyNorms && canSimplify(stream)
  const needsOnes = stream.norms.some(({ kind }) => kind === 'mean')
  const mustSimplify = needsOnes && rotation !== undefined && !keepsOnes(rotation)
  if (mustSimplify && !simplifiable) {
    throw new RangeError('the rotation does not keep the ones vector, and norms of the stream subtract the mean')
  }
  const ties = decideTies(model, stream, rotation !== undefined, mustSimplify)
  const simplifies = simplifiable && ties.every(({ decision }) => decision === 'copy')
  return { stream, rotation, ties, recentres: canRecentre(stream), simplifies }
}

/** True when the vector of ones is an eigenvector of a rotation, with eigenvalue 1. */
function keepsOnes({ width, applyInPlace }: Rotation): boolean {
  const ones = new Float64Array(width).fill(1)
  applyInPlace(ones)
  return ones.every((value) => Math.abs(value - 1) <= KEEPS_ONES_TO)
}

/** What leaves the model cannot be turned, and the affine part of a norm that leaves it cannot be moved. */
function checkOutputs({ scope }: ModelDraft, { tensors, norms }: ResidualStream): void {
  for (const name of [...tensors, ...norms.map(({ output }) => output)]) {
    if (scope.outputs.has(name)) throw new RangeError(`'${name}' of a stream is an output of the model`)
  }
}

/** Plan recentring and rotation. @returns how many writers are recentred. */
function planEdits(
  draft: ModelDraft,
  edits: EditPlan,
  { stream, rotation, ties, recentres }: StreamPlan,
  newBiases: FusedNorms['added'],
): number {
  const own = ({ node, inputIndex, constant, axis }: Use): Use => ({
    node: draft.nodeOf(node),
    inputIndex,
    constant: draft.constantOf(constant),
    axis,
  })
  // A layer that reads a stream may write to one as well: then so does the bias that it got.
  const writers = stream.writers.flatMap((writer): Use[] => {
    const made = newBiases.find(({ reader }) => reader.node === writer.node && reader.inputIndex === writer.inputIndex)
    if (!made) return [own(writer)]
    return [own(writer), { ...made.bias, axis: made.bias.constant.tensor.dims.length - 1 }]
  })
  const kept = new Set(ties.filter(({ decision }) => decision !== 'copy').map(({ reader }) => reader.constant.name))
  let recentred = 0
  if (recentres) {
    for (const { node, inputIndex, constant, axis } of writers) {
      if (kept.has(constant.name)) continue
      edits.add(node, inputIndex, constant, axis, { kind: 'centre' })
      recentred++
    }
    // What a LayerNorm with one gain for all channels returns has mean zero, so a tied reader may lose its mean with the table.
    for (const reader of stream.readers) {
      if (!isTied(reader, stream) || ties.some((tie) => tie.reader === reader)) continue
      const { node, inputIndex, constant, axis } = own(reader)
      edits.add(node, inputIndex, constant, axis, { kind: 'centre' })
    }
  }
  if (rotation) {
    for (const { node, inputIndex, constant, axis } of [...writers, ...stream.readers.map(own)]) {
      if (Number(constant.tensor.dims[axis]) !== stream.width) {
        throw new RangeError(`axis ${axis} of '${constant.name}' does not have the stream's ${stream.width} channels`)
      }
      edits.add(node, inputIndex, constant, axis, { kind: 'rotate', rotation })
    }
  }
  return recentred
}

/** Constants that may not be read any more, and what lies between them and their readers. */
function touchedNames(draft: ModelDraft, edits: EditPlan, plans: readonly StreamPlan[]): Set<string> {
  const names = new Set<string>()
  for (const { node, inputIndex, constant } of edits.uses) {
    names.add(constant.name)
    for (const step of draft.pathTo(node, inputIndex, constant.name)) names.add(step.output[0]!)
  }
  for (const { stream } of plans) {
    for (const { gain, bias } of stream.norms) {
      for (const vector of [gain, bias]) {
        if (!vector) continue
        names.add(vector.constant.name)
        for (const step of draft.pathTo(vector.node, vector.inputIndex, vector.constant.name))
          names.add(step.output[0]!)
      }
    }
  }
  return names
}
