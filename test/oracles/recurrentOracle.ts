/** @file LSTM, GRU and RNN step by step, by the equations of the ONNX specification. */

type Activation = 'Sigmoid' | 'Tanh' | 'Relu'
const ACTIVATIONS: Readonly<Record<Activation, (x: number) => number>> = {
  Sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  Tanh: Math.tanh,
  Relu: (x) => Math.max(x, 0),
}

export interface Recurrence {
  readonly operator: 'LSTM' | 'GRU' | 'RNN'
  readonly steps: number
  readonly batch: number
  readonly inputs: number
  readonly hidden: number
  /** One entry per direction: does it run backwards? */
  readonly backwards: readonly boolean[]
  readonly x: ArrayLike<number>
  readonly w: ArrayLike<number>
  readonly r: ArrayLike<number>
  readonly b?: ArrayLike<number>
  readonly lengths?: readonly number[]
  readonly initialH?: ArrayLike<number>
  readonly initialC?: ArrayLike<number>
  readonly peepholes?: ArrayLike<number>
  readonly clip?: number
  readonly linearBeforeReset?: boolean
  /** For each direction f, g, h; the defaults of the operator when absent. */
  readonly activations?: readonly Activation[]
}

const GATES = { LSTM: 4, GRU: 3, RNN: 1 }
const DEFAULTS: Readonly<Record<string, readonly Activation[]>> = {
  LSTM: ['Sigmoid', 'Tanh', 'Tanh'],
  GRU: ['Sigmoid', 'Tanh'],
  RNN: ['Tanh'],
}

export interface States {
  /** Y [steps, directions, batch, hidden]; zero beyond a sequence's length. */
  readonly y: Float64Array
  /** By direction and position (steps, then batch; only steps within the length): the state that the step starts from. */
  readonly before: number[][][]
}

export function runRecurrence(o: Recurrence): States {
  const { steps, batch, hidden: H, backwards } = o
  const y = new Float64Array(steps * backwards.length * batch * H)
  const before = backwards.map((isReverse, d) => {
    const found: number[][] = []
    for (let n = 0; n < batch; n++) {
      const length = o.lengths?.[n] ?? steps
      let h = Array.from({ length: H }, (_, j) => o.initialH?.[(d * batch + n) * H + j] ?? 0)
      let c = Array.from({ length: H }, (_, j) => o.initialC?.[(d * batch + n) * H + j] ?? 0)
      for (let i = 0; i < length; i++) {
        const t = isReverse ? length - 1 - i : i
        found[t * batch + n] = h
        ;[h, c] = step(o, d, t, n, h, c)
        h.forEach((value, j) => {
          y[((t * backwards.length + d) * batch + n) * H + j] = value
        })
      }
    }
    return found.filter((state) => state !== undefined)
  })
  return { y, before }
}

function step(o: Recurrence, d: number, t: number, n: number, h: number[], c: number[]): [number[], number[]] {
  const { hidden: H, inputs: K, batch } = o
  const gates = GATES[o.operator]
  const names = o.activations ?? DEFAULTS[o.operator]!
  const own = names.length > DEFAULTS[o.operator]!.length ? names.slice((d * names.length) / o.backwards.length) : names
  const [f, g, k] = own.map((name) => ACTIVATIONS[name]) as ((x: number) => number)[]
  const cut = (x: number) => (o.clip ? Math.min(Math.max(x, -o.clip), o.clip) : x)
  const fromX = (gate: number, j: number) => {
    let sum = 0
    for (let i = 0; i < K; i++) sum += o.w[(d * gates * H + gate * H + j) * K + i]! * o.x[(t * batch + n) * K + i]!
    return sum + (o.b?.[d * 2 * gates * H + gate * H + j] ?? 0)
  }
  const fromH = (gate: number, j: number, state: number[]) => {
    let sum = 0
    for (let i = 0; i < H; i++) sum += o.r[(d * gates * H + gate * H + j) * H + i]! * state[i]!
    return sum
  }
  const biasH = (gate: number, j: number) => o.b?.[d * 2 * gates * H + (gates + gate) * H + j] ?? 0
  const both = (gate: number, j: number) => fromX(gate, j) + fromH(gate, j, h) + biasH(gate, j)
  const each = (make: (j: number) => number) => Array.from({ length: H }, (_, j) => make(j))
  if (o.operator === 'RNN') return [each((j) => f!(cut(both(0, j)))), c]
  if (o.operator === 'GRU') {
    const z = each((j) => f!(cut(both(0, j))))
    const r = each((j) => f!(cut(both(1, j))))
    const reset = h.map((value, j) => r[j]! * value)
    const candidate = each((j) => {
      const recurrent = o.linearBeforeReset ? r[j]! * (fromH(2, j, h) + biasH(2, j)) : fromH(2, j, reset) + biasH(2, j)
      return g!(cut(fromX(2, j) + recurrent))
    })
    return [each((j) => (1 - z[j]!) * candidate[j]! + z[j]! * h[j]!), c]
  }
  const peep = (which: number, j: number, cell: number) => (o.peepholes?.[(d * 3 + which) * H + j] ?? 0) * cell
  // Gates are stored as input, output, forget, cell; peepholes as input, output, forget.
  const input = each((j) => f!(cut(both(0, j) + peep(0, j, c[j]!))))
  const forget = each((j) => f!(cut(both(2, j) + peep(2, j, c[j]!))))
  const next = each((j) => forget[j]! * c[j]! + input[j]! * g!(cut(both(3, j))))
  const output = each((j) => f!(cut(both(1, j) + peep(1, j, next[j]!))))
  return [each((j) => output[j]! * k!(next[j]!)), next]
}
