/**
 * @file The best path through a bit-shift trellis: for a sequence of targets, the codes whose levels come nearest to all of
 * them together (Viterbi 1967; trellis-coded quantization: Marcellin & Fischer 1990; the bit shift: QTIP, Tseng et al. 2024).
 *
 * The index of a step is the last `window` bits of the codes so far; a state is what of them the next step still sees:
 * window − bits bits. We search the whole trellis, from zeros on, with a free end; QTIP closes its sequences into a ring.
 */

/** A trellis as it is searched. */
export interface Trellis {
  readonly bits: number
  readonly window: number
  /** Levels by index, times {@link PART}, [2^window]. */
  readonly table: Float64Array
}

/** @param levels of the table, integers. */
export function makeTrellis(bits: number, window: number, levels: Float32Array): Trellis {
  return { bits, window, table: Float64Array.from(levels, (level) => PART * level) }
}

let before = new Float64Array(0)
let after = new Float64Array(0)
let history = new Uint8Array(0)

/** Targets are rounded to this part of a level, so that squared errors are integers. */
const PART = 16
/** Rows of a lane count by the square of their scale, in this many steps. */
const WEIGHTS = 1024
/** More than any path costs: 128 steps, errors of 2^13 parts, 2^10 weights and 2^4 ways are below 2^47. */
const UNREACHED = 2 ** 50
/** Beyond this many levels a target is so far outside that it does not matter how far. */
const FARTHEST = 400

/**
 * @param targets values wanted at the steps [at, at + steps).
 * @param scales  what levels are multiplied by at the same places; above 0.
 * @param codes   overwritten at the same places: the path.
 */
export function bestPath(
  { bits, window, table }: Trellis,
  targets: Float64Array,
  scales: Float64Array,
  at: number,
  steps: number,
  codes: Uint8Array,
): void {
  const states = 1 << (window - bits)
  const ways = 1 << bits
  reserve(states, steps)
  before.fill(UNREACHED, 0, states)
  before[0] = 0
  let largest = 0
  for (let step = 0; step < steps; step++) largest = Math.max(largest, scales[at + step]!)
  for (let step = 0; step < steps; step++) {
    const scale = scales[at + step]!
    const wanted = Math.max(-FARTHEST, Math.min(FARTHEST, targets[at + step]! / scale))
    const weight = Math.max(1, Math.round(WEIGHTS * (scale / largest) ** 2))
    const target = Math.round(PART * wanted)
    if (bits === 2) advanceFour(table, states, target, weight, step * states)
    else advance(table, states, ways, target, weight, step * states)
    const turned = before
    before = after
    after = turned
  }
  let state = 0
  for (let s = 1; s < states; s++) if (before[s]! < before[state]!) state = s
  for (let step = steps - 1; step >= 0; step--) {
    const index = state + history[step * states + state]! * states
    codes[at + step] = index & (ways - 1)
    state = index >> bits
  }
}

/**
 * The least cost of reaching each state, and the way there. States that differ in their newest code alone come from the
 * same states; the index is the way, put in front of the state's own bits.
 *
 * Which way is best is as good as random, and a branch on it would be mispredicted every other time: costs are integers,
 * multiples of the number of ways, so that the way itself fits in beside them and the minimum brings it along.
 */
function advance(
  table: Float64Array,
  states: number,
  ways: number,
  target: number,
  weight: number,
  past: number,
): void {
  const apart = states / ways
  const factor = ways * weight
  for (let from = 0, state = 0; from < apart; from++) {
    for (let end = state + ways; state < end; state++) {
      let least = Number.POSITIVE_INFINITY
      for (let w = 0, index = state, origin = from; w < ways; w++, index += states, origin += apart) {
        const error = target - table[index]!
        least = Math.min(least, before[origin]! + w + factor * error * error)
      }
      const cost = Math.floor(least / ways) * ways
      after[state] = cost
      history[past + state] = least - cost
    }
  }
}

/** The same for two bits, which take most of the time: the four ways in a row. */
function advanceFour(table: Float64Array, states: number, target: number, weight: number, past: number): void {
  const apart = states >> 2
  const third = 2 * states
  const fourth = 3 * states
  const factor = 4 * weight
  for (let from = 0, state = 0; from < apart; from++) {
    const a = before[from]!
    const b = before[from + apart]! + 1
    const c = before[from + 2 * apart]! + 2
    const d = before[from + 3 * apart]! + 3
    for (let end = state + 4; state < end; state++) {
      const ea = target - table[state]!
      const eb = target - table[state + states]!
      const ec = target - table[state + third]!
      const ed = target - table[state + fourth]!
      const least = Math.min(
        Math.min(a + factor * ea * ea, b + factor * eb * eb),
        Math.min(c + factor * ec * ec, d + factor * ed * ed),
      )
      const cost = Math.floor(least / 4) * 4
      after[state] = cost
      history[past + state] = least - cost
    }
  }
}

function reserve(states: number, steps: number): void {
  if (before.length < states) {
    before = new Float64Array(states)
    after = new Float64Array(states)
  }
  if (history.length < steps * states) history = new Uint8Array(steps * states)
}
