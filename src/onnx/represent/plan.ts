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
 * - `indices`  indices and the tables that they point into, looked up by folded nodes; serves every use
 */

import type { CodebookForm } from '../../quant/codebookWeight.ts'
import type { Bits } from '../../quant/quantizedWeight.ts'
import type { RepresentationName } from '../../report.ts'
import { intAttribute } from '../attributes.ts'
import type { WeightedLayer, WeightUse } from '../layers.ts'
import { DataType } from '../proto.ts'
import { whyNoCodebook } from './codebookForm.ts'
import { planCodebook } from './codebookPlan.ts'
import { balancedGroups, kernelBlockFor, kernelGroups, powerOfTwoAtLeast, TWO_BIT_BLOCKS } from './grouping.ts'

type StorageKind = 'blocks' | 'packed' | 'nibble3' | 'rows' | 'integer' | 'indices'

/** What the file may contain. */
export interface Target {
  readonly format: 'auto' | 'contrib' | 'standard'
  /** Opset of the default domain that the written model will have. */
  readonly opset: number
  readonly accuracyLevel: 0 | 4
  /** Scales may take a byte each where that pays; absent: float16 or float32. */
  readonly byteScales?: boolean
  /** Weights of a codebook's table of lookups up to which it is decoded at load; undefined: what measurements say. */
  readonly smallTable?: number
}

export interface LayerPlan {
  readonly layer: WeightedLayer
  readonly bits: Bits
  /** Which grids may be used: those without zero points, those with, or the better of both. */
  readonly symmetric: 'auto' | 'yes' | 'no'
  /** How indices find their levels; undefined for codes on grids. */
  readonly codebook: CodebookForm | undefined
  /** The grid that takes the tables' place where it turns out to lose less; undefined where it may not, or there are none. */
  readonly onGrid?: LayerPlan | undefined
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
  /** Scales may take a byte each; not in front of DequantizeLinear, whose scales other tools want as they are. */
  readonly byteScales?: boolean
  readonly notes: readonly string[]
}

/** Lowest opset at which folded nodes can unpack codes of a width (BitShift 11, BitwiseAnd and BitwiseOr 18). */
export const UNPACK_OPSET: Readonly<Record<Bits, number>> = { 8: 7, 6: 18, 5: 18, 4: 11, 3: 18, 2: 11 }
/** Lowest opset with blocked DequantizeLinear and 4-bit types. */
export const BLOCKED_DEQUANTIZE_OPSET = 21

/** How a layer is to be quantized. */
export interface LayerChoice {
  /** Width asked for; widened when the opset cannot carry it, with a note. */
  readonly bits: Bits
  /** Columns per scale (16, 32, 64, 128, 256), or 'channel' for one scale per row. */
  readonly groupSize: number | 'channel'
  readonly symmetric: LayerPlan['symmetric']
  /** Indices into tables in place of a grid; `bits` is the width of an index then. */
  readonly codebook?: CodebookForm | undefined
  /** Bytes by which a grid may be larger than the tables whose place it takes; undefined where none may take it. */
  readonly gridRoom?: number | undefined
}

/** Plan one layer. A codebook that cannot be written becomes a grid of the same bits, with a note. */
export function planLayer(layer: WeightedLayer, choice: LayerChoice, target: Target): LayerPlan {
  const { bits, groupSize, symmetric, codebook } = choice
  const obstacle = codebook && (manyInputs(layer) ?? whyNoCodebook(codebook, bits, target.opset))
  if (codebook && !obstacle) {
    const served = layer.uses.map((use) => isServedByKernel(use, layer, target.format))
    return withScales(planCodebook(layer, { bits, groupSize, codebook }, target, served), target)
  }
  const grid = placeLayer(layer, bits, groupSize, target)
  const notes = obstacle ? [`on a grid, without a codebook: ${obstacle}`, ...grid.notes] : grid.notes
  return withScales({ ...grid, notes, symmetric, codebook: undefined }, target)
}

function withScales(plan: LayerPlan, { byteScales }: Target): LayerPlan {
  return byteScales && !plan.uses.includes('DequantizeLinear') ? { ...plan, byteScales } : plan
}

/** Tables and lanes go through all rows of a layer, which have to see the same inputs. */
function manyInputs({ view, uses, dims }: WeightedLayer): string | undefined {
  const isSplit = uses.some(({ node }) => {
    if (/^Conv/.test(node.opType)) return intAttribute(node, 'group', 1) !== 1
    // Directions of a recurrence, matrices of a batch.
    return RECURRENT.test(node.opType) ? dims[0] !== 1 : view.outer > 1 && view.inner > 1
  })
  return isSplit ? 'its rows see different inputs' : undefined
}

const RECURRENT = /^(LSTM|GRU|RNN)$/

type Placed = Omit<LayerPlan, 'symmetric' | 'codebook'>

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
      ...kernelGroups(layer, cols, groupSize, block, storage === 'packed'),
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
      ? kernelGroups(layer, cols, groupSize, kernelBlockFor(cols, groupSize, 8))
      : balancedGroups(layer, cols, groupSize, fieldsOf(carried))
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
    ? kernelGroups(layer, cols, groupSize, kernelBlockFor(cols, groupSize, 8))
    : balancedGroups(layer, cols, groupSize, fieldsOf(carried))
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

/** Codes of a width that fill a byte of every plane. */
function fieldsOf(bits: Bits): number {
  return Math.max(...PLANES[bits].map((width) => 8 / width))
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
