/** @file The best path of a trellis, written forwards from every state, one candidate at a time. */

/** Codes of the lane of least Σ (x − level)², after zeros; window and bits as in `Coding`. */
export function bestCodes(
  lane: ArrayLike<number>,
  levels: ArrayLike<number>,
  bits: number,
  window: number,
): { codes: number[]; error: number } {
  const mask = 2 ** window - 1
  const states = 2 ** (window - bits)
  let errors: number[] = Array(states).fill(Number.POSITIVE_INFINITY)
  errors[0] = 0
  const steps: Int32Array[] = []
  for (let i = 0; i < lane.length; i++) {
    const reached: number[] = Array(states).fill(Number.POSITIVE_INFINITY)
    const came = new Int32Array(states)
    for (let state = 0; state < states; state++) {
      if (errors[state] === Number.POSITIVE_INFINITY) continue
      for (let code = 0; code < 2 ** bits; code++) {
        const index = ((state << bits) | code) & mask
        const to = index % states
        const error = errors[state]! + (lane[i]! - levels[index]!) ** 2
        if (error < reached[to]!) {
          reached[to] = error
          came[to] = (state << bits) | code
        }
      }
    }
    errors = reached
    steps.push(came)
  }
  const error = Math.min(...errors)
  const codes: number[] = []
  for (let i = lane.length - 1, state = errors.indexOf(error); i >= 0; i--) {
    const step = steps[i]![state]!
    codes.unshift(step % 2 ** bits)
    state = step >> bits
  }
  return { codes, error }
}
