/**
 * @file MatMul, Gemm and FusedMatMul as com.microsoft MatMulNBits: Y = A · dequantize(B)ᵀ, codes [N, K] in blocks along K.
 */
import { floatAttribute, intAttribute } from '../attributes.ts'
import type { WeightUse } from '../layers.ts'
import { DataType, makeNode } from '../proto.ts'
import type { Emitter } from './emitter.ts'
import { typedScales } from './packScales.ts'
import type { LayerPlan } from './plan.ts'
import { groupsOf, rowsOf } from './stored.ts'
import { emitCodes, planeNames, type StoredNames } from './unpack.ts'

/** Inputs B, scales and zero points of MatMulNBits for one layer, made once and read by all its uses. */
export interface KernelInputs {
  readonly codes: string
  readonly zeroPoints: string
  /** bits attribute: the width of the kernel that runs, 2, 4 or 8. */
  readonly kernelBits: number
  /** Scales converted to an element type; folded at load. */
  scales(dataType: number): string
}

/** Prepare a layer's stored tensors for MatMulNBits. */
export function emitKernelInputs(to: Emitter, plan: LayerPlan, names: StoredNames, scaleType: number): KernelInputs {
  const rows = rowsOf(plan)
  const blocks = Math.ceil(plan.layer.view.reduction / plan.kernelBlock)
  const groups = groupsOf(plan)
  const cache = new Map<number, string>()
  // One scale per row is repeated for each block of the row: the kernel has no per-row form. By Tile, which is as old as
  // the oldest opset that is read; Expand is not.
  const repeat = (step: string, name: string, width: number) =>
    groups === blocks ? name : to.node(`${step}.each`, 'Tile', [name, to.int64([1, width])])
  const scales = (dataType: number) => {
    const known = cache.get(dataType)
    if (known) return known
    const made = repeat('scale', typedScales(to, names, scaleType, dataType), blocks)
    cache.set(dataType, made)
    return made
  }
  if (plan.storage === 'blocks') {
    const width = Math.ceil((blocks * plan.bits) / 8)
    const zeroPoints = names.zeroPoints ? repeat('zp', names.zeroPoints, width) : ''
    return { codes: names.codes!, zeroPoints, kernelBits: plan.bits, scales }
  }
  if (plan.storage === 'nibble3') {
    const width = Math.ceil(blocks / 2)
    const zeroPoints = names.zeroPoints
      ? repeat('zp', names.zeroPoints, width)
      : to.node('zp', 'Tile', [to.uint8([1, 1], [0x44]), to.int64([rows, width])])
    return { codes: emitNibbles(to, plan, names), zeroPoints, kernelBits: 4, scales }
  }
  const codes = names.levels ?? emitCodes(to, plan, planeNames(plan, names), rows)
  const blocked = to.node('blocks', 'Reshape', [codes, to.int64([rows, blocks, plan.kernelBlock])])
  // Levels have the zero point that the kernel takes by default.
  if (names.levels) return { codes: blocked, zeroPoints: '', kernelBits: 8, scales }
  const zeroPoints = names.zeroPoints
    ? repeat('zp', names.zeroPoints, blocks)
    : to.node('zp', 'Tile', [to.uint8([1, 1], [2 ** (plan.bits - 1)]), to.int64([rows, blocks])])
  return { codes: blocked, zeroPoints, kernelBits: 8, scales }
}

/** 3-bit planes into 4-bit bytes: ((low >> 2b) & 0x33) | (((high >> (2a + b)) & 0x11) << 2), a and b in {0, 1}. */
function emitNibbles(to: Emitter, plan: LayerPlan, names: StoredNames): string {
  const right = { attributes: { direction: 'RIGHT' } }
  const lowShifted = to.node('low.shr', 'BitShift', [names.low!, to.uint8([1, 1, 2, 1], [0, 2])], right)
  const low = to.node('low.and', 'BitwiseAnd', [lowShifted, to.uint8([1], [0x33])])
  const highShifted = to.node('high.shr', 'BitShift', [names.high!, to.uint8([1, 2, 2, 1], [0, 1, 2, 3])], right)
  const bit = to.node('high.and', 'BitwiseAnd', [highShifted, to.uint8([1], [0x11])])
  const high = to.node('high.up', 'BitShift', [bit, to.uint8([1], [2])], {
    attributes: { direction: 'LEFT' },
  })
  const bytes = to.node('nibbles', 'BitwiseOr', [low, high])
  const blocks = plan.paddedCols / plan.kernelBlock
  return to.node('blocks', 'Reshape', [bytes, to.int64([rowsOf(plan), blocks, plan.kernelBlock / 2])])
}

/**
 * Emit the nodes that take the place of one use. The MatMulNBits node keeps the replaced node's name; a Gemm's alpha,
 * beta and C follow as Mul and Add, which onnxruntime fuses where it can.
 * @returns names of the kernel's activations and of its own output.
 */
export function emitMatMulNBits(
  to: Emitter,
  plan: LayerPlan,
  use: WeightUse,
  inputs: KernelInputs,
  accuracyLevel: 0 | 4,
): { activations: string; product: string } {
  const { node } = use
  const isGemm = node.opType === 'Gemm'
  const alpha = isGemm || node.opType === 'FusedMatMul' ? floatAttribute(node, 'alpha', 1) : 1
  const beta = isGemm ? floatAttribute(node, 'beta', 1) : 1
  const addend = isGemm && node.input[2] && beta !== 0 ? node.input[2] : undefined
  const output = node.output[0]!

  let a = node.input[0]!
  if (isGemm && intAttribute(node, 'transA', 0) !== 0) {
    a = to.node('A', 'Transpose', [a], { attributes: { perm: [1, 0] } })
  }
  const product = alpha === 1 && !addend ? output : to.fresh('product')
  let y = product
  const operands = [a, inputs.codes, inputs.scales(use.dataType), ...(inputs.zeroPoints ? [inputs.zeroPoints] : [])]
  to.push(
    makeNode('MatMulNBits', operands, [y], {
      name: node.name,
      domain: 'com.microsoft',
      attributes: {
        K: plan.layer.view.reduction,
        N: rowsOf(plan),
        bits: inputs.kernelBits,
        block_size: plan.kernelBlock,
        // 2- and 8-bit kernels exist only with int8 activations.
        accuracy_level: inputs.kernelBits === 4 ? accuracyLevel : 4,
      },
    }),
  )
  if (alpha !== 1) y = to.node('alpha', 'Mul', [y, typedScalar(to, alpha, use.dataType)], addend ? {} : { output })
  if (addend) {
    const c = beta === 1 ? addend : to.node('beta', 'Mul', [addend, typedScalar(to, beta, use.dataType)])
    to.node('bias', 'Add', [y, c], { output })
  }
  return { activations: a, product }
}

function typedScalar(to: Emitter, value: number, dataType: number): string {
  const name = to.scalar(value)
  return dataType === DataType.FLOAT ? name : to.node('factor.typed', 'Cast', [name], { attributes: { to: dataType } })
}
