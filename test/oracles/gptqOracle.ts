/** @file Slow, plain formulas for layer Hessians and the solver, in float64 and without blocks. */

type Matrix = readonly (readonly number[])[]

/** Rows of a flat row-major array. */
export function toMatrix(flat: ArrayLike<number>, rows: number, cols: number): number[][] {
  return Array.from({ length: rows }, (_, r) => Array.from({ length: cols }, (_, c) => flat[r * cols + c]!))
}

/** x with A·x = b, by elimination with pivoting. */
function solve(a: Matrix, b: readonly number[]): number[] {
  const m = a.map((row, i) => [...row, b[i]!])
  const n = m.length
  for (let c = 0; c < n; c++) {
    let best = c
    for (let r = c; r < n; r++) if (Math.abs(m[r]![c]!) > Math.abs(m[best]![c]!)) best = r
    const swap = m[c]!
    m[c] = m[best]!
    m[best] = swap
    for (let r = 0; r < n; r++) {
      if (r === c) continue
      const factor = m[r]![c]! / m[c]![c]!
      for (let k = c; k <= n; k++) m[r]![k]! -= factor * m[c]![k]!
    }
  }
  return m.map((row, i) => row[n]! / row[i]!)
}

/** A grid for every column of a row. */
export interface ColumnGrid {
  readonly scale: number
  readonly zeroPoint: number
}

/** The code nearest to a target, ties to even. */
export function nearestCode(target: number, { scale, zeroPoint }: ColumnGrid, bits: number): number {
  const x = target / scale
  const floor = Math.floor(x)
  let level = x - floor > 0.5 ? floor + 1 : floor
  if (x - floor === 0.5) level = floor % 2 === 0 ? floor : floor + 1
  return Math.min(2 ** bits - 1, Math.max(0, level + zeroPoint))
}

function realOf(code: number, { scale, zeroPoint }: ColumnGrid): number {
  return Math.fround((code - zeroPoint) * scale)
}

/**
 * Codes of one row by sequential conditional least squares: before a column is rounded, all columns not yet fixed are
 * solved for in closed form given those that are.
 */
export function conditionalCodes(
  weights: readonly number[],
  hessian: Matrix,
  order: readonly number[],
  grids: readonly ColumnGrid[],
  bits: number,
): number[] {
  const codes = weights.map(() => 0)
  const errors = weights.map(() => 0)
  order.forEach((column, place) => {
    const free = order.slice(place)
    const fixed = order.slice(0, place)
    const pull = free.map((i) => fixed.reduce((sum, k) => sum + hessian[i]![k]! * errors[k]!, 0))
    const block = free.map((i) => free.map((j) => hessian[i]![j]!))
    const target = weights[column]! + solve(block, pull)[0]!
    codes[column] = nearestCode(target, grids[column]!, bits)
    errors[column] = weights[column]! - realOf(codes[column]!, grids[column]!)
  })
  return codes
}

/** Σ over rows of e·H·eᵀ, e = target − real. */
export function quadraticLoss(target: Matrix, real: Matrix, hessian: Matrix): number {
  let loss = 0
  target.forEach((row, r) => {
    const e = row.map((w, k) => w - real[r]![k]!)
    for (let i = 0; i < e.length; i++) for (let j = 0; j < e.length; j++) loss += e[i]! * hessian[i]![j]! * e[j]!
  })
  return loss
}

/** The least loss of one row over all codes. */
export function leastLoss(
  weights: readonly number[],
  hessian: Matrix,
  grids: readonly ColumnGrid[],
  bits: number,
): number {
  let least = Number.POSITIVE_INFINITY
  const codes = weights.map(() => 0)
  const visit = (column: number): void => {
    if (column === weights.length) {
      const real = codes.map((code, k) => realOf(code, grids[k]!))
      least = Math.min(least, quadraticLoss([weights], [real], hessian))
      return
    }
    for (let code = 0; code < 2 ** bits; code++) {
      codes[column] = code
      visit(column + 1)
    }
  }
  visit(0)
  return least
}

/** The least loss of one row that changing one code can give. */
export function leastNeighbour(
  weights: readonly number[],
  codes: readonly number[],
  hessian: Matrix,
  grids: readonly ColumnGrid[],
  bits: number,
): number {
  let least = Number.POSITIVE_INFINITY
  codes.forEach((own, column) => {
    for (let code = 0; code < 2 ** bits; code++) {
      if (code === own) continue
      const real = codes.map((c, k) => realOf(k === column ? code : c, grids[k]!))
      least = Math.min(least, quadraticLoss([weights], [real], hessian))
    }
  })
  return least
}

/** A⁻¹ of a symmetric positive definite matrix, by Gauss and Jordan. */
function invert(a: Matrix): number[][] {
  const m = a.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))])
  const n = m.length
  for (let c = 0; c < n; c++) {
    const pivot = m[c]![c]!
    m[c] = m[c]!.map((x) => x / pivot)
    for (let r = 0; r < n; r++) {
      const factor = m[r]![c]!
      if (r !== c) for (let k = c; k < 2 * n; k++) m[r]![k]! -= factor * m[c]![k]!
    }
  }
  return m.map((row) => row.slice(n))
}

/** Of the columns left, again and again the one with the smallest diagonal of the inverse of their block. */
export function greedyByInversion(hessian: Matrix): number[] {
  const left = hessian.map((_, k) => k)
  const order: number[] = []
  while (left.length) {
    const inverse = invert(left.map((i) => left.map((j) => hessian[i]![j]!)))
    const diagonal = inverse.map((row, k) => row[k]!)
    order.push(...left.splice(diagonal.indexOf(Math.min(...diagonal)), 1))
  }
  return order
}

/** (1/Σw) Σ_t w_t (x_t − centre_x)(y_t − centre_y)ᵀ by the definition. */
export function secondMoments(x: Matrix, y: Matrix, weights: readonly number[], centred: boolean): number[][] {
  const total = weights.reduce((sum, w) => sum + w, 0)
  const meanOf = (z: Matrix, k: number) =>
    centred ? z.reduce((sum, row, t) => sum + (weights[t]! * row[k]!) / total, 0) : 0
  return x[0]!.map((_, i) =>
    y[0]!.map((_, j) => {
      const a = meanOf(x, i)
      const b = meanOf(y, j)
      return x.reduce((sum, row, t) => sum + (weights[t]! / total) * (row[i]! - a) * (y[t]![j]! - b), 0)
    }),
  )
}
