/** @file Embedding lookups on quantized tables: com.microsoft GatherBlockQuantized, or packed rows gathered, then decoded. */
import { symmetricZeroPoint } from '../../quant/quantizedWeight.ts'
import type { WeightUse } from '../layers.ts'
import { DataType, makeNode } from '../proto.ts'
import { LEVEL_ZERO } from './codebookForm.ts'
import { type Emitter, emitSlice } from './emitter.ts'
import { emitGatheredLevels } from './gatherIndices.ts'
import { type LayerPlan, PLANES } from './plan.ts'
import { groupsOf, rowsOf } from './stored.ts'
import { emitCodes, planeNames, type StoredNames } from './unpack.ts'

/** Replace a Gather by GatherBlockQuantized, which keeps the table packed in memory. `blocks` or `packed` storage. */
export function emitGatherBlockQuantized(
  to: Emitter,
  plan: LayerPlan,
  use: WeightUse,
  names: StoredNames,
  scales: string,
): void {
  const cols = plan.layer.view.reduction
  const table =
    plan.storage === 'packed'
      ? names.codes!
      : to.node('table', 'Reshape', [names.codes!, to.int64([rowsOf(plan), (cols * plan.bits) / 8])])
  to.push(
    makeNode(
      'GatherBlockQuantized',
      [table, use.node.input[1]!, scales, ...(names.zeroPoints ? [names.zeroPoints] : [])],
      [use.node.output[0]!],
      {
        name: use.node.name,
        domain: 'com.microsoft',
        attributes: { gather_axis: 0, quantize_axis: 1, block_size: plan.kernelBlock, bits: plan.bits },
      },
    ),
  )
}

/**
 * Replace a Gather by a Gather of packed rows and the decoding of just those rows. Standard operators, any width; the
 * indices are not known at load, so nothing is folded and the table stays packed in memory. `rows` or `indices` storage.
 */
export function emitGatherRows(
  outer: Emitter,
  plan: LayerPlan,
  use: WeightUse,
  names: StoredNames,
  scaleType: number,
): void {
  const to = within(outer, 'rows')
  const cols = plan.layer.view.reduction
  const groups = groupsOf(plan)
  const indices = use.node.input[1]!
  const gather = (step: string, table: string, dims: readonly number[]) => {
    const rows = to.node(step, 'Gather', [table, indices], { attributes: { axis: 0 } })
    return to.node(`${step}.flat`, 'Reshape', [rows, to.int64(dims)])
  }
  const gatheredCodes = () => {
    const planes = planeNames(plan, names).map((plane, i) => {
      const width = PLANES[plan.bits][i]!
      const bytes = (plan.paddedCols * width) / 8
      return gather(`plane${i}`, plane, width === 8 ? [-1, bytes] : [-1, 1, bytes])
    })
    return emitCodes(to, plan, planes, -1)
  }
  const isIndices = plan.storage === 'indices'
  const codes = isIndices ? emitGatheredLevels(to, plan, names, indices) : gatheredCodes()
  const grouped = to.node('grouped', 'Reshape', [codes, to.int64([-1, groups, plan.paddedCols / groups])])
  const levels = to.node('levels', 'Cast', [grouped], { attributes: { to: DataType.FLOAT } })
  const perGroup = [-1, groups, 1]
  const asFloat = (step: string, name: string) =>
    to.node(`${step}.float`, 'Cast', [gather(step, name, perGroup)], { attributes: { to: DataType.FLOAT } })
  const zero = names.zeroPoints
    ? asFloat('zero', names.zeroPoints)
    : to.scalar(isIndices ? LEVEL_ZERO : symmetricZeroPoint(plan.bits))
  const centred = to.node('centred', 'Sub', [levels, zero])
  const scale =
    scaleType === DataType.FLOAT ? gather('scale', names.scales!, perGroup) : asFloat('scale', names.scales!)
  let real = to.node('real', 'Mul', [centred, scale])
  if (plan.paddedCols !== cols) {
    real = to.node('padded', 'Reshape', [real, to.int64([-1, plan.paddedCols])])
    real = emitSlice(to, 'cut', real, 1, cols)
  }
  const shape = to.node('shape', 'Concat', [to.node('indices.shape', 'Shape', [indices]), to.int64([cols])], {
    attributes: { axis: 0 },
  })
  const output = use.node.output[0]!
  if (use.dataType === DataType.FLOAT) to.node('rows', 'Reshape', [real, shape], { output })
  else {
    const shaped = to.node('rows', 'Reshape', [real, shape])
    to.node('typed', 'Cast', [shaped], { attributes: { to: use.dataType }, output })
  }
}

/** The same emitter with every step name put under `folder/`. */
function within(to: Emitter, folder: string): Emitter {
  const under = (step: string) => `${folder}/${step}`
  return {
    opset: to.opset,
    push: (node) => to.push(node),
    fresh: (step) => to.fresh(under(step)),
    tensor: (step, type, dims, payload) => to.tensor(under(step), type, dims, payload),
    int64: (values) => to.int64(values),
    uint8: (dims, values) => to.uint8(dims, values),
    int32: (dims, values) => to.int32(dims, values),
    sharedTensor: (key, dims, payload) => to.sharedTensor(key, dims, payload),
    scalar: (value) => to.scalar(value),
    node: (step, opType, inputs, options) => to.node(under(step), opType, inputs, options),
  }
}
