/**
 * @file Quantization of one matrix the slow and obvious way, in plain float64 loops over arrays of numbers, written from the
 * formulas. Shares no code with src/.
 */

export interface OracleSpec {
  readonly bits: number
  readonly scheme: 'symmetric' | 'symmetric-full' | 'asymmetric'
  readonly method: 'minmax' | 'clip' | 'hqq'
}

export interface OracleResult {
  readonly scaleType: 'float16' | 'float32'
  readonly codes: number[]
  readonly scales: number[]
  readonly zeroPoints: number[]
  readonly squaredError: number
}

/** All finite non-negative binary16 values, ascending; index = bit pattern. */
const HALVES = Array.from({ length: 0x7c00 }, (_, bits) => {
  const exponent = Math.floor(bits / 1024)
  const mantissa = bits % 1024
  return exponent === 0 ? mantissa / 2 ** 24 : (1 + mantissa / 1024) * 2 ** (exponent - 15)
})

/** Nearest half of a number below 65520 in magnitude, ties to the even bit pattern, by bisection. */
function oracleHalf(x: number): number {
  const magnitude = Math.abs(x)
  let below = 0
  let above = HALVES.length
  while (above - below > 1) {
    const middle = (below + above) >> 1
    if (HALVES[middle]! <= magnitude) below = middle
    else above = middle
  }
  const next = above < HALVES.length ? HALVES[above]! : 65536
  const down = magnitude - HALVES[below]!
  const up = next - magnitude
  const nearest = down < up || (down === up && below % 2 === 0) ? HALVES[below]! : next
  return x < 0 ? -nearest : nearest
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x)
  const rest = x - floor
  if (rest < 0.5) return floor
  if (rest > 0.5) return floor + 1
  return floor % 2 === 0 ? floor : floor + 1
}

/** The scale in its stored type, or undefined where that type cannot hold it in full precision. */
function stored(scale: number, type: 'float16' | 'float32'): number | undefined {
  if (type === 'float32') {
    const single = Math.fround(scale)
    return Math.abs(single) < 2 ** -126 || Math.abs(single) === Number.POSITIVE_INFINITY ? undefined : single
  }
  if (Math.abs(scale) >= 65520) return undefined
  const half = oracleHalf(scale)
  return Math.abs(half) < 1 / 131072 ? undefined : half
}

function levelOf(w: number, scale: number, zero: number, bits: number): number {
  return Math.min(Math.max(roundHalfEven(w / scale), -zero), 2 ** bits - 1 - zero)
}

function squaredErrorOf(weights: number[], scale: number, zero: number, bits: number): number {
  let sum = 0
  for (const w of weights) sum += (Math.fround(levelOf(w, scale, zero, bits) * scale) - w) ** 2
  return sum
}

/** Σ |level·scale − w|^2.4. */
function powerErrorOf(weights: number[], scale: number, zero: number, bits: number): number {
  let sum = 0
  for (const w of weights) sum += Math.abs(levelOf(w, scale, zero, bits) * scale - w) ** 2.4
  return sum
}

/** HQQ's zero point (p = 0.7, β = 10 growing by 1 %, at most 20 iterations), with errors in grid steps. */
export function hqqZero(weights: number[], scale: number, first: number, bits: number): number {
  let zero = first
  let best = first
  let least = Number.POSITIVE_INFINITY
  let beta = 10
  for (let iteration = 0; iteration < 20; iteration++) {
    let total = 0
    const moved = weights.map((w) => {
      const code = Math.min(Math.max(roundHalfEven(w / scale + zero), 0), 2 ** bits - 1)
      const error = w / scale - (code - zero)
      const size = Math.abs(error)
      total += size
      const shrunk = size === 0 ? 0 : Math.sign(error) * Math.max(size - size ** -0.3 / beta, 0)
      return code - (w / scale - shrunk)
    })
    if (total >= least) break
    least = total
    best = zero
    zero = moved.reduce((a, b) => a + b, 0) / weights.length
    beta *= 1.01
  }
  return best
}

/** 'walk' is the bounded search, 'reference' all 80 factors of the published clip. */
export type ClipSearch = 'walk' | 'reference'

/** One group; `unfit` when float16 cannot hold its range-based scale: then it has the nearest that it can. */
function oracleGroup(
  weights: number[],
  spec: OracleSpec,
  type: 'float16' | 'float32',
  search: ClipSearch,
): { scale: number; zero: number; unfit?: true } {
  const { bits, scheme, method } = spec
  const half = 2 ** (bits - 1)
  const largest = 2 ** bits - 1
  const lo = Math.min(0, ...weights)
  const hi = Math.max(0, ...weights)
  if (lo === 0 && hi === 0) return { scale: 1, zero: half }
  let spanning = (hi - lo) / largest
  if (scheme === 'symmetric') spanning = (2 * Math.max(-lo, hi)) / largest
  if (scheme === 'symmetric-full') spanning = (hi >= -lo ? -hi : -lo) / half
  const [least, most] = type === 'float16' ? [2 ** -17, 65504] : [2 ** -126, 2 ** 127]
  const held = stored(spanning, type)
  const minMax = held ?? Math.sign(spanning) * Math.min(Math.max(Math.abs(spanning), least), most)
  const minMaxZero = scheme === 'asymmetric' ? Math.min(roundHalfEven((0 - lo) / minMax), largest) : half
  let scale = minMax
  let zero = minMaxZero
  if (held === undefined && type === 'float16') return { scale, zero, unfit: true }
  if (method === 'minmax') return { scale, zero }

  let error = squaredErrorOf(weights, scale, zero, bits)
  if (method === 'clip') {
    let bestFactor = 100
    let bestScale = scale
    let least = powerErrorOf(weights, scale, zero, bits)
    const attempt = (factor: number): boolean => {
      const candidate = factor < 21 ? undefined : stored((factor / 100) * spanning, type)
      if (candidate === undefined) return false
      const power = powerErrorOf(weights, candidate, zero, bits)
      if (power >= least) return false
      least = power
      bestFactor = factor
      bestScale = candidate
      return true
    }
    if (search === 'reference') for (let factor = 99; factor >= 21; factor--) attempt(factor)
    else {
      let failures = 0
      for (let factor = 95; factor >= 21 && failures < 2; factor -= 5) failures = attempt(factor) ? 0 : failures + 1
      const centre = bestFactor
      attempt(centre === 100 ? 99 : centre + 2)
      attempt(centre - 2)
    }
    const clipped = squaredErrorOf(weights, bestScale, zero, bits)
    if (clipped < error) {
      error = clipped
      scale = bestScale
    }
  } else {
    const real = hqqZero(weights, scale, zero, bits)
    for (const candidate of [Math.floor(real), Math.ceil(real)]) {
      const inside = Math.min(Math.max(candidate, 0), largest)
      const moved = squaredErrorOf(weights, scale, inside, bits)
      if (moved < error) {
        error = moved
        zero = inside
      }
    }
  }
  for (let refit = 0; refit < 2; refit++) {
    let numerator = 0
    let denominator = 0
    for (const w of weights) {
      const level = levelOf(w, scale, zero, bits)
      numerator += w * level
      denominator += level * level
    }
    if (denominator === 0) break
    const candidate = stored(numerator / denominator, type)
    if (candidate === undefined) break
    const refitted = squaredErrorOf(weights, candidate, zero, bits)
    if (!(refitted < error)) break
    error = refitted
    scale = candidate
  }
  return { scale, zero }
}

/** Quantize weights [rows, cols] (float32 values) with one spec. */
export function oracleQuantize(
  weights: ArrayLike<number>,
  rows: number,
  cols: number,
  groupSize: number,
  spec: OracleSpec,
  search: ClipSearch = 'walk',
): OracleResult {
  for (const scaleType of ['float16', 'float32'] as const) {
    const codes: number[] = []
    const scales: number[] = []
    const zeroPoints: number[] = []
    let squaredError = 0
    let unfitError = 0
    for (let r = 0; r < rows; r++) {
      for (let k = 0; k < cols; k += groupSize) {
        const group = Array.from({ length: Math.min(groupSize, cols - k) }, (_, i) => weights[r * cols + k + i]!)
        const grid = oracleGroup(group, spec, scaleType, search)
        scales.push(grid.scale)
        zeroPoints.push(grid.zero)
        for (const w of group) codes.push(levelOf(w, grid.scale, grid.zero, spec.bits) + grid.zero)
        const error = squaredErrorOf(group, grid.scale, grid.zero, spec.bits)
        squaredError += error
        if (grid.unfit) unfitError += error
      }
    }
    if (scaleType === 'float32' || unfitError <= 0.01 * squaredError)
      return { scaleType, codes, scales, zeroPoints, squaredError }
  }
  throw new Error('no scale type fits')
}
