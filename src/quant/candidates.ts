/** @file Which grids compete for a tensor, and how many of its groups judge them. */
import type { GridMethod } from './grid.ts'
import type { GridScheme } from './quantizedWeight.ts'

/** A kind of grid for a whole tensor. */
export interface GridCandidate {
  readonly scheme: GridScheme
  readonly method: GridMethod
}

/** Of candidates with equal error the first wins, so the plainer ones stand in front. */
const ALL: readonly GridCandidate[] = [
  { scheme: 'symmetric', method: 'minmax' },
  { scheme: 'symmetric-full', method: 'minmax' },
  { scheme: 'asymmetric', method: 'minmax' },
  { scheme: 'symmetric', method: 'clip' },
  { scheme: 'symmetric-full', method: 'clip' },
  { scheme: 'asymmetric', method: 'clip' },
  { scheme: 'asymmetric', method: 'hqq' },
]

/**
 * The candidates that a configuration allows; never empty.
 * @param method    'rtn': min-max grids only. 'auto': all.
 * @param symmetric 'yes': no zero points. 'no': asymmetric grids only. 'auto': both.
 */
export function gridCandidates(
  method: 'auto' | 'rtn',
  symmetric: 'auto' | 'yes' | 'no',
): readonly [GridCandidate, ...GridCandidate[]] {
  const allowed = ALL.filter(
    (candidate) =>
      (method === 'auto' || candidate.method === 'minmax') &&
      (symmetric === 'auto' || (candidate.scheme === 'asymmetric') === (symmetric === 'no')),
  )
  return allowed as [GridCandidate, ...GridCandidate[]]
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b)
}

/**
 * Step through the groups of a tensor, counted row by row, so that at least `wanted` of them are visited when there are
 * that many. The step shares no divisor with the groups of a row: the sample covers all columns.
 * @returns the step; 1 = every group.
 */
export function sampleStride(rows: number, groupsInRow: number, wanted: number): number {
  let stride = Math.max(1, Math.floor((rows * groupsInRow) / wanted))
  while (greatestCommonDivisor(stride, groupsInRow) > 1) stride--
  return stride
}
