/**
 * @file Decides how a layer's codes lie in the file and what each use of the weight becomes.
 *
 * What onnxruntime 1.30 runs (measured): `MatMulNBits` at 2, 4 and 8 bits with blocks of 16…256; `GatherBlockQuantized`
 * likewise; constant subgraphs of Cast/BitShift/Mul are folded at load, `DequantizeLinear` is not, and is fused into a
 * low-bit product only in front of MatMul. Hence the storages:
 *
 * - `blocks`   MatMulNBits' own bytes; also read by GatherBlockQuantized
 * - `packed`   rows of packed codes for GatherBlockQuantized alone
 * - `nibble3`  3-bit codes in two planes that four folded nodes turn into 4-bit MatMulNBits bytes
 * - `rows`     bit planes per row (8 | 4 | 2 | 4+1 | 4+2 | 2+1), unpacked by folded nodes; serves every use
 * - `integer`  typed int4/int8 tensors for DequantizeLinear
 */

import { type Bits, groupsPerRow } from '../../quant/quantizedWeight.ts'
import type { RepresentationName } from '../../report.ts'
import type { WeightedLayer, WeightUse } from '../layers.ts'
import { DataType } from '../proto.ts'

type StorageKind = 'blocks' | 'packed' | 'nibble3' | 'rows' | 'integer'

/** What the file may contain. */
export interface Target {
  readonly format: 'auto' | 'contrib' | 'standard'
  /** Opset of the default domain that the written model will have. */
  readonly opset: number
  readonly accuracyLevel: 0 | 4
}

export interface LayerPlan {
  readonly layer: WeightedLayer
  readonly bits: Bits
  /** Which grids may be used: those without zero points, those with, or the better of both. */
  readonly symmetric: 'auto' | 'yes' | 'no'
  /** Columns that share a scale; equals the number of columns for one scale per row. */
  readonly groupSize: number
  readonly storage: StorageKind
  /** Columns of a stored row: codes beyond the layer's columns are padding. */
  readonly paddedCols: number
  /** block_size of MatMulNBits; a divisor or, for one scale per row, a refinement of groupSize. */
  readonly kernelBlock: number
  /** One per use, in order. */
  readonly uses: readonly RepresentationName[]
  /** The tensor itself is also rebuilt under its own name, for readers that no kernel serves. */
  readonly decodesTensor: boolean
  readonly notes: readonly string[]
}

/** Lowest opset at which folded nodes can unpack codes of a width (BitShift 11, BitwiseAnd and BitwiseOr 18). */
export const UNPACK_OPSET: Readonly<Record<Bits, number>> = { 8: 7, 6: 18, 5: 18, 4: 11, 3: 18, 2: 11 }
/** Lowest opset with blocked DequantizeLinear and 4-bit types. */
export const BLOCKED_DEQUANTIZE_OPSET = 21

const MAX_KERNEL_BLOCK = 256
const CHANNEL_KERNEL_BLOCK = 128
/** Blocks for which onnxruntime has a 2-bit kernel; 16 and 256 run 25 times slower than float. */
const TWO_BIT_BLOCKS: readonly number[] = [32, 64, 128]

/** Smallest power of two ≥ n, at least 16. */
function powerOfTwoAtLeast(n: number): number {
  let p = 16
  while (p < n) p *= 2
  return p
}

/** How a layer is to be quantized. */
export interface LayerChoice {
  /** Width asked for; widened when the opset cannot carry it, with a note. */
  readonly bits: Bits
  /** Columns per scale (16, 32, 64, 128, 256), or 'channel' for one scale per row. */
  readonly groupSize: number | 'channel'
  readonly symmetric: LayerPlan['symmetric']
}

/** Plan one layer. */
export function planLayer(layer: WeightedLayer, choice: LayerChoice, target: Target): LayerPlan {
  return { ...placeLayer(layer, choice.bits, choice.groupSize, target), symmetric: choice.symmetric }
}

type Placed = Omit<LayerPlan, 'symmetric'>

function placeLayer(layer: WeightedLayer, bits: Bits, groupSize: number | 'channel', target: Target): Placed {
  const notes: string[] = []
  const isServed = (use: WeightUse) => isServedByKernel(use, layer, target.format)
  const kernelUses = layer.uses.filter(isServed)
  const matMuls = kernelUses.filter((use) => use.kernel === 'matmul').length
  const gathers = kernelUses.length - matMuls
  const needsTensor = kernelUses.length < layer.uses.length || layer.hasOtherReaders

  if (target.format === 'standard')
    return planStandard(layer, bits, groupSize, target, { matMuls, gathers, needsTensor }, notes)

  const cols = layer.view.reduction
  const block = kernelBlockFor(cols, groupSize, bits)
  const slowTwoBit = bits === 2 && !TWO_BIT_BLOCKS.includes(block) && target.format === 'auto'
  if (kernelUses.length > 0 && !needsTensor) {
    const native = (bits === 2 || bits === 4 || bits === 8) && !slowTwoBit
    const plan = (storage: StorageKind): Placed => ({
      ...kernelGroups(layer, cols, groupSize, block, storage),
      bits,
      storage,
      uses: layer.uses.map((use) => (use.kernel === 'matmul' ? 'MatMulNBits' : 'GatherBlockQuantized')),
      decodesTensor: false,
      notes,
    })
    if (native && gathers === 0) return plan('blocks')
    if (native && matMuls === 0 && (cols * bits) % 8 === 0) return plan('packed')
    if (native && matMuls > 0 && cols % block === 0 && groupSize !== 'channel') return plan('blocks')
    if (bits === 3 && gathers === 0 && target.opset >= UNPACK_OPSET[3]) return plan('nibble3')
  }
  const carried = carriedBits(bits, target.opset, notes)
  const grouping =
    matMuls > 0
      ? kernelGroups(layer, cols, groupSize, kernelBlockFor(cols, groupSize, 8), 'rows')
      : balancedGroups(layer, cols, groupSize, carried)
  return {
    ...grouping,
    bits: carried,
    storage: 'rows',
    uses: layer.uses.map((use) =>
      !isServed(use) ? 'folded' : use.kernel === 'matmul' ? 'MatMulNBits' : 'gather-rows',
    ),
    decodesTensor: needsTensor,
    notes,
  }
}

interface UseCounts {
  readonly matMuls: number
  readonly gathers: number
  readonly needsTensor: boolean
}

function planStandard(
  layer: WeightedLayer,
  bits: Bits,
  groupSize: number | 'channel',
  target: Target,
  { matMuls, gathers, needsTensor }: UseCounts,
  notes: string[],
): Placed {
  const cols = layer.view.reduction
  const typed = bits === 4 || bits === 8
  const blocked = target.opset >= BLOCKED_DEQUANTIZE_OPSET
  if (blocked && typed && gathers === 0 && (matMuls === 0 || !needsTensor)) {
    const size = groupSize === 'channel' ? cols : Math.min(groupSize, powerOfTwoAtLeast(cols))
    return {
      layer,
      bits,
      groupSize: Math.min(size, cols),
      storage: 'integer',
      paddedCols: cols,
      kernelBlock: size,
      uses: layer.uses.map(() => 'DequantizeLinear'),
      decodesTensor: needsTensor,
      notes,
    }
  }
  const carried = carriedBits(bits, target.opset, notes)
  const dequantizes = blocked && matMuls > 0
  if (!blocked) notes.push(`opset ${target.opset} has no blocked DequantizeLinear; decoded with Cast, Sub and Mul`)
  const grouping = dequantizes
    ? kernelGroups(layer, cols, groupSize, kernelBlockFor(cols, groupSize, 8), 'rows')
    : balancedGroups(layer, cols, groupSize, carried)
  const uses = layer.uses.map((use): RepresentationName => {
    if (!isServedByKernel(use, layer, target.format)) return 'folded'
    if (use.kernel === 'gather') return 'gather-rows'
    return dequantizes ? 'DequantizeLinear' : 'folded'
  })
  return {
    ...grouping,
    bits: carried,
    storage: 'rows',
    uses,
    decodesTensor: uses.includes('folded') || layer.hasOtherReaders,
    notes,
  }
}

/**
 * True when a low-bit operator can serve this use. onnxruntime's kernels compute in float32 and float16; its fusion of
 * DequantizeLinear fails to load when the weight lies outside the subgraph of the product.
 */
function isServedByKernel(use: WeightUse, layer: WeightedLayer, format: Target['format']): boolean {
  if (use.kernel === undefined || (use.dataType !== DataType.FLOAT && use.dataType !== DataType.FLOAT16)) return false
  return format !== 'standard' || use.scope === layer.constant.scope
}

function carriedBits(bits: Bits, opset: number, notes: string[]): Bits {
  if (opset >= UNPACK_OPSET[bits]) return bits
  const wider = ([4, 8] as const).find((b) => b > bits && opset >= UNPACK_OPSET[b]) ?? 8
  notes.push(`stored at ${wider} bits: opset ${opset} cannot unpack ${bits}-bit codes (needs ${UNPACK_OPSET[bits]})`)
  return wider
}

function kernelBlockFor(cols: number, groupSize: number | 'channel', bits: number): number {
  const wanted = groupSize === 'channel' ? CHANNEL_KERNEL_BLOCK : groupSize
  const block = Math.min(wanted, MAX_KERNEL_BLOCK, powerOfTwoAtLeast(cols))
  return bits === 2 && cols < TWO_BIT_BLOCKS[0]! ? TWO_BIT_BLOCKS[0]! : block
}

type Grouping = Pick<LayerPlan, 'layer' | 'groupSize' | 'paddedCols' | 'kernelBlock'>

/** Groups as the low-bit operators want them: equal powers of two, the last one padded. */
function kernelGroups(
  layer: WeightedLayer,
  cols: number,
  groupSize: number | 'channel',
  block: number,
  storage: StorageKind,
): Grouping {
  if (storage === 'packed') {
    // GatherBlockQuantized takes a block that is longer than the row for one scale per row.
    const kernelBlock = groupSize === 'channel' ? powerOfTwoAtLeast(cols) : block
    return { layer, groupSize: Math.min(kernelBlock, cols), paddedCols: cols, kernelBlock }
  }
  const paddedCols = Math.ceil(cols / block) * block
  return { layer, groupSize: groupSize === 'channel' ? cols : Math.min(block, cols), paddedCols, kernelBlock: block }
}

/**
 * Groups for nodes that are folded anyway and take any size: as many as asked for, equally long, so that 40 columns in
 * groups of 32 become 2 × 20 and no padding is stored. Rounded up to whole bytes of the widest field count.
 */
function balancedGroups(layer: WeightedLayer, cols: number, groupSize: number | 'channel', bits: Bits): Grouping {
  const groups = groupSize === 'channel' ? 1 : groupsPerRow(cols, groupSize)
  const fields = Math.max(...PLANES[bits].map((width) => 8 / width))
  const size = Math.ceil(Math.ceil(cols / groups) / fields) * fields
  const count = groupsPerRow(cols, size)
  const paddedCols = count * size
  return { layer, groupSize: Math.min(size, cols), paddedCols, kernelBlock: size }
}

/** Widths of the bit planes that hold codes of a width in `rows` storage, low plane first. */
export const PLANES: Readonly<Record<Bits, readonly (1 | 2 | 4 | 8)[]>> = {
  8: [8],
  6: [4, 2],
  5: [4, 1],
  4: [4],
  3: [2, 1],
  2: [2],
}
