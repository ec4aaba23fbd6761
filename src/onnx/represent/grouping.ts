/** @file How many columns share a scale, and how rows are cut into the blocks of the low-bit operators. */
import { groupsPerRow } from '../../quant/quantizedWeight.ts'
import type { WeightedLayer } from '../layers.ts'
import type { LayerPlan } from './plan.ts'

const MAX_KERNEL_BLOCK = 256
const CHANNEL_KERNEL_BLOCK = 128
/** Blocks for which onnxruntime has a 2-bit kernel; 16 and 256 run 25 times slower than float. */
export const TWO_BIT_BLOCKS: readonly number[] = [32, 64, 128]

/** Smallest power of two ≥ n, at least 16. */
export function powerOfTwoAtLeast(n: number): number {
  let p = 16
  while (p < n) p *= 2
  return p
}

/** block_size of MatMulNBits. @param bits width of the kernel that runs. */
export function kernelBlockFor(cols: number, groupSize: number | 'channel', bits: number): number {
  const wanted = groupSize === 'channel' ? CHANNEL_KERNEL_BLOCK : groupSize
  const block = Math.min(wanted, MAX_KERNEL_BLOCK, powerOfTwoAtLeast(cols))
  return bits === 2 && cols < TWO_BIT_BLOCKS[0]! ? TWO_BIT_BLOCKS[0]! : block
}

type Grouping = Pick<LayerPlan, 'layer' | 'groupSize' | 'paddedCols' | 'kernelBlock'>

/**
 * Groups as the low-bit operators want them: equal powers of two, the last one padded.
 * @param lookup the table is for GatherBlockQuantized alone.
 */
export function kernelGroups(
  layer: WeightedLayer,
  cols: number,
  groupSize: number | 'channel',
  block: number,
  lookup = false,
): Grouping {
  if (lookup) {
    // GatherBlockQuantized takes a block that is longer than the row for one scale per row.
    const kernelBlock = groupSize === 'channel' ? powerOfTwoAtLeast(cols) : block
    return { layer, groupSize: Math.min(kernelBlock, cols), paddedCols: cols, kernelBlock }
  }
  const paddedCols = Math.ceil(cols / block) * block
  return { layer, groupSize: groupSize === 'channel' ? cols : Math.min(block, cols), paddedCols, kernelBlock: block }
}

/**
 * Groups for nodes that are folded anyway and take any size: as many as asked for, equally long, so that 40 columns in
 * groups of 32 become 2 × 20 and no padding is stored.
 * @param fields groups are rounded up to a multiple of this, for whole bytes.
 */
export function balancedGroups(
  layer: WeightedLayer,
  cols: number,
  groupSize: number | 'channel',
  fields: number,
): Grouping {
  const groups = groupSize === 'channel' ? 1 : groupsPerRow(cols, groupSize)
  const size = Math.ceil(Math.ceil(cols / groups) / fields) * fields
  const count = groupsPerRow(cols, size)
  const paddedCols = count * size
  return { layer, groupSize: Math.min(size, cols), paddedCols, kernelBlock: size }
}
