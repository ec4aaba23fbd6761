import { describe, expect, it } from 'vitest'
import { clearDifference } from '../../src/quantize/tablesOrGrid.ts'

describe('a difference over samples', () => {
  it('is its mean where that is more than two standard errors', () => {
    // Differences 1, 2, 3: mean 2, standard error 1/√3.
    expect(clearDifference([2, 4, 6], [1, 2, 3])).toBe(2)
    expect(clearDifference([1, 2, 3], [2, 4, 6])).toBe(-2)
  })

  it('is none where it may be chance', () => {
    // Differences 3, 0, 0: mean 1, standard error 1.
    expect(clearDifference([4, 1, 1], [1, 1, 1])).toBe(0)
    expect(clearDifference([1, 1], [1, 1])).toBe(0)
  })

  it('is none of one sample, nor where both fail', () => {
    expect(clearDifference([5], [1])).toBe(0)
    const never = Number.POSITIVE_INFINITY
    expect(clearDifference([never, 1], [never, 2])).toBe(0)
  })
})
