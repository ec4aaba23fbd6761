/** @file Rotates heads in the stored weights. */
import type { OnnxModel } from '../onnx/model.ts'
import { applyEditsInPlace, type CopiedConstant, EditPlan } from './constantEdits.ts'
import { vectorsOf } from './haar.ts'
import type { HeadPair } from './heads.ts'
import { ModelDraft } from './modelDraft.ts'
import type { Rotation } from './rotation.ts'
import { randomHadamard } from './rotations.ts'

export interface RotatedHeads {
  readonly model: OnnxModel
  /** Vectors that other nodes use as well, and that were stored once more. */
  readonly copies: readonly CopiedConstant[]
}

/**
 * A copy of a model in which the heads of these pairs are rotated: values v ← v·Q for every head, weights that read them
 * w ← w·Q. One Q for all heads of a size, so that keys and values shared by several queries (grouped-query attention) need
 * nothing more. The model computes the same, up to one rounding of each weight.
 *
 * @param pairs of this very model.
 * @param seed of the signs of the Hadamard matrix.
 * @throws QtoolError `numeric` when a weight is not finite, or too large for its type.
 */
export function rotateHeads(model: OnnxModel, pairs: readonly HeadPair[], seed: number): RotatedHeads {
  const draft = new ModelDraft(model)
  const plan = new EditPlan()
  const rotations = new Map<string, Rotation>()
  for (const { uses, headSize } of pairs) {
    for (const { node, inputIndex, constant, axis, starts } of uses) {
      const width = Number(constant.tensor.dims[axis])
      // Equal edits must have equal rotations: this is how constants with several uses are recognised.
      const key = JSON.stringify([width, headSize, starts])
      const rotation = rotations.get(key) ?? headRotation(width, headSize, starts, seed)
      rotations.set(key, rotation)
      plan.add(draft.nodeOf(node), inputIndex, draft.constantOf(constant), axis, { kind: 'rotate', rotation })
    }
  }
  const copies = applyEditsInPlace(draft, plan)
  return { model: draft.model, copies }
}

/** The same rotation of each head, channels outside of heads left alone. */
function headRotation(width: number, headSize: number, starts: readonly number[], seed: number): Rotation {
  const head = randomHadamard(headSize, { seed })
  const turn = (vectors: Float64Array, rotate: (vectors: Float64Array) => void) => {
    for (const vector of vectorsOf(vectors, width)) {
      for (const start of starts) rotate(vector.subarray(start, start + headSize))
    }
  }
  return {
    width,
    applyInPlace: (vectors) => turn(vectors, head.applyInPlace),
    invertInPlace: (vectors) => turn(vectors, head.invertInPlace),
  }
}
