/**
 * @file The best scale and zero point of a group for fixed codes, against the loss of the whole row.
 *
 * With levels k (code − zero point), scale s, R = E·H_d on the group's columns and H its block of H_d, a change of the
 * group's values by d changes the loss by −2·d·R + d·H·dᵀ. For a zero point higher by z the levels are k − z·1, so
 * d = s'(k − z·1) − s·k, and everything follows from five numbers.
 */
import { roundScale } from '../quant/grid.ts'
import type { ScaleType } from '../quant/quantizedWeight.ts'

/** k = levels, 1 = ones, on the columns of one group of one row. */
export interface GroupForms {
  /** k·H·kᵀ */
  levelLevel: number
  /** k·H·1ᵀ */
  levelOne: number
  /** 1·H·1ᵀ */
  oneOne: number
  /** k·Rᵀ */
  levelResidual: number
  /** 1·Rᵀ */
  oneResidual: number
}

/** A grid that is better than the present one; written by {@link refitGrid}. */
export interface Refit {
  scale: number
  /** −1, 0 or 1. */
  shift: number
  /** By how much the loss of the row falls; > 0. */
  gain: number
}

/** A gain smaller than this part of the sum of its terms' magnitudes is rounding. */
const NOISE = 2 ** -20

/**
 * @param scale     the present scale; the new one has its sign.
 * @param zeroPoint the present one, and `largest` the largest that there is; undefined where it must stay.
 * @returns whether a better grid was found; scales are rounded to `scaleType` before they are judged.
 */
export function refitGrid(
  forms: GroupForms,
  scale: number,
  scaleType: ScaleType,
  zeroPoint: number | undefined,
  largest: number,
  refit: Refit,
): boolean {
  const { levelLevel, levelOne, oneOne, levelResidual, oneResidual } = forms
  refit.gain = 0
  const [first, last] = zeroPoint === undefined ? [0, 0] : [-1, 1]
  for (let shift = first; shift <= last; shift++) {
    if (zeroPoint !== undefined && (zeroPoint + shift < 0 || zeroPoint + shift > largest)) continue
    const square = levelLevel - shift * (2 * levelOne - shift * oneOne)
    if (!(square > 0)) continue
    const mixed = levelLevel - shift * levelOne
    const slope = levelResidual - shift * oneResidual
    const trial = roundScale((slope + scale * mixed) / square, scaleType)
    if (trial === 0 || trial > 0 !== scale > 0 || (trial === scale && shift === 0)) continue
    const linear = 2 * (trial * slope - scale * levelResidual)
    const quadratic = trial * trial * square - 2 * trial * scale * mixed + scale * scale * levelLevel
    const gain = linear - quadratic
    const noise = NOISE * (trial * trial * square + scale * scale * levelLevel)
    if (gain > refit.gain && gain > noise) {
      refit.scale = trial
      refit.shift = shift
      refit.gain = gain
    }
  }
  return refit.gain > 0
}
