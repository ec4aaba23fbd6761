/**
 * @file The weight rebuilt as a float tensor under its own name: Cast(codes) − zero point, times scale, reshaped.
 * Standard operators only; onnxruntime folds all of it at load, so the model runs at float speed from a small file.
 */
import { symmetricZeroPoint } from '../../quant/quantizedWeight.ts'
import { DataType } from '../proto.ts'
import { LEVEL_ZERO } from './codebookForm.ts'
import { type Emitter, emitSlice } from './emitter.ts'
import { levelCols } from './indices.ts'
import { typedScales } from './packScales.ts'
import type { LayerPlan } from './plan.ts'
import { groupsOf, rowsOf } from './stored.ts'
import { emitCodes, planeNames, type StoredNames } from './unpack.ts'

/**
 * Emit the decoding of `rows` or `indices` storage into the tensor named `output`, in the stored tensor's own shape and type.
 * Each value is float32((code − zeroPoint) · scale), rounded once more where the tensor is not float32.
 */
export function emitFolded(to: Emitter, plan: LayerPlan, names: StoredNames, scaleType: number, output: string): void {
  const { outer, reduction, inner } = plan.layer.view
  const rows = rowsOf(plan)
  const groups = groupsOf(plan)
  const grouped = groups > 1
  const cols = names.levels ? levelCols(plan) : plan.paddedCols
  const perGroup = [rows, groups, cols / groups]
  // Scales stored [rows, groups] for a kernel that also reads them need a third axis here.
  const widen = (step: string, name: string) =>
    grouped && plan.uses.some((use) => use !== 'folded')
      ? to.node(`${step}.3d`, 'Reshape', [name, to.int64([rows, groups, 1])])
      : name

  let codes = names.levels ?? emitCodes(to, plan, planeNames(plan, names), rows)
  if (grouped) codes = to.node('grouped', 'Reshape', [codes, to.int64(perGroup)])
  const levels = to.node('levels', 'Cast', [codes], { attributes: { to: DataType.FLOAT } })
  const zero = names.zeroPoints
    ? to.node('zero', 'Cast', [widen('zp', names.zeroPoints)], { attributes: { to: DataType.FLOAT } })
    : to.scalar(names.levels ? LEVEL_ZERO : symmetricZeroPoint(plan.bits))
  const scale = widen('scale', typedScales(to, names, scaleType, DataType.FLOAT))
  let real = to.node('real', 'Mul', [to.node('centred', 'Sub', [levels, zero]), scale])

  if (cols !== reduction) {
    if (grouped) real = to.node('padded', 'Reshape', [real, to.int64([rows, cols])])
    real = emitSlice(to, 'cut', real, 1, reduction)
  }
  if (inner !== 1) {
    const byRow = to.node('byRow', 'Reshape', [real, to.int64([outer, inner, reduction])])
    real = to.node('stored', 'Transpose', [byRow], { attributes: { perm: [0, 2, 1] } })
  }
  const shape = to.int64(plan.layer.dims)
  const type = plan.layer.constant.tensor.dataType
  if (type === DataType.FLOAT) to.node('weight', 'Reshape', [real, shape], { output })
  else to.node('typed', 'Cast', [to.node('weight', 'Reshape', [real, shape])], { attributes: { to: type }, output })
}
