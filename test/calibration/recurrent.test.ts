import { describe, expect, it } from 'vitest'
import { unfoldedElements } from '../../src/calibration/unfold.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { DataType, makeAttribute, makeNode, makeValueInfo, type NodeProto } from '../../src/onnx/proto.ts'
import { type Recurrence, runRecurrence } from '../oracles/recurrentOracle.ts'
import {
  draw,
  expectClose,
  expectStatistics,
  feed,
  reasonIn,
  runModel,
  runTap,
  slowStatistics,
  smallModel,
  tapIn,
  weight,
} from './tapRuns.ts'

const GATES = { LSTM: 4, GRU: 3, RNN: 1 }
const [STEPS, BATCH, INPUTS, HIDDEN] = [5, 3, 8, 9]

interface Setup {
  readonly operator?: Recurrence['operator']
  readonly direction?: 'forward' | 'reverse' | 'bidirectional'
  readonly bias?: boolean
  readonly lengths?: readonly number[]
  readonly initial?: boolean
  readonly peepholes?: boolean
  readonly clip?: number
  readonly linearBeforeReset?: boolean
  readonly activations?: Recurrence['activations']
  readonly opset?: number
}

const small = (dims: readonly number[], seed: number) => draw(dims, seed).map((v) => (v - 0.5) / 2)

/** The strings that an attribute of type STRINGS holds. */
function addStrings(node: NodeProto, name: string, values: readonly string[]): void {
  const attribute = makeAttribute(name, [])
  attribute.type = 8
  attribute.strings = values.map((v) => new TextEncoder().encode(v))
  node.attribute.push(attribute)
}

/** A recurrent node with everything but W and R fed, its feeds, and the same for the oracle. */
function build(setup: Setup, seed = 1) {
  const { operator = 'LSTM', direction = 'forward', opset = 17, lengths, clip, activations } = setup
  const gates = GATES[operator]
  const backwards = { forward: [false], reverse: [true], bidirectional: [false, true] }[direction]
  const D = backwards.length
  const dims = {
    x: [STEPS, BATCH, INPUTS],
    w: [D, gates * HIDDEN, INPUTS],
    r: [D, gates * HIDDEN, HIDDEN],
    b: [D, 2 * gates * HIDDEN],
    h0: [D, BATCH, HIDDEN],
    c0: [D, BATCH, HIDDEN],
    p: [D, 3 * HIDDEN],
  }
  const data = Object.fromEntries(Object.entries(dims).map(([name, d], i) => [name, small(d, seed + i)]))
  const has = {
    x: true,
    w: true,
    r: true,
    b: setup.bias === true,
    lengths: lengths !== undefined,
    h0: setup.initial === true,
    c0: setup.initial === true && operator === 'LSTM',
    p: setup.peepholes === true,
  }
  const inputs = Object.entries(has).map(([name, given]) => (given ? name : ''))
  while (inputs.at(-1) === '') inputs.pop()
  const node = makeNode(operator, inputs, ['y'], {
    attributes: {
      hidden_size: HIDDEN,
      direction,
      ...(clip ? { clip: { float: clip } } : {}),
      ...(operator === 'GRU' ? { linear_before_reset: setup.linearBeforeReset ? 1 : 0 } : {}),
    },
  })
  if (activations) addStrings(node, 'activations', activations)
  const feeds: Record<string, FeedTensor> = {}
  for (const [name, d] of Object.entries(dims)) if (has[name as keyof typeof has]) feeds[name] = feed(d, data[name]!)
  if (lengths) feeds.lengths = { type: 'int32', dims: [BATCH], data: Int32Array.from(lengths) }
  const fed = ['x', 'b', 'h0', 'c0', 'p'].filter((name) => has[name as keyof typeof has])
  const model = smallModel({
    nodes: [node],
    weights: [weight('w', dims.w, data.w!), weight('r', dims.r, data.r!)],
    inputs: Object.fromEntries(fed.map((name) => [name, undefined])),
    opset,
  })
  if (lengths) model.graph!.input.push(makeValueInfo('lengths', DataType.INT32, [BATCH]))
  const recurrence: Recurrence = {
    operator,
    steps: STEPS,
    batch: BATCH,
    inputs: INPUTS,
    hidden: HIDDEN,
    backwards,
    x: data.x!,
    w: data.w!,
    r: data.r!,
    ...(has.b ? { b: data.b! } : {}),
    ...(lengths ? { lengths } : {}),
    ...(has.h0 ? { initialH: data.h0! } : {}),
    ...(has.c0 ? { initialC: data.c0! } : {}),
    ...(has.p ? { peepholes: data.p! } : {}),
    ...(clip ? { clip } : {}),
    ...(setup.linearBeforeReset ? { linearBeforeReset: true } : {}),
    ...(activations ? { activations } : {}),
  }
  return { model, feeds, states: runRecurrence(recurrence), x: data.x!, node }
}

/** Inputs of the node at the positions that count. */
function stepsWithin(x: Float32Array, lengths?: readonly number[]): number[][] {
  return Array.from({ length: STEPS * BATCH }, (_, at) => [...x.subarray(at * INPUTS, (at + 1) * INPUTS)]).filter(
    (_, at) => !lengths || Math.floor(at / BATCH) < lengths[at % BATCH]!,
  )
}

const setups: [string, Setup][] = [
  ['plain LSTM', {}],
  ['LSTM backwards', { direction: 'reverse', bias: true }],
  ['LSTM both ways with all inputs', { direction: 'bidirectional', bias: true, initial: true, peepholes: true }],
  ['LSTM with a clip', { clip: 0.3, bias: true }],
  ['LSTM of short sequences', { lengths: [5, 2, 4], initial: true }],
  ['LSTM of short sequences, both ways', { direction: 'bidirectional', lengths: [3, 5, 1], bias: true, initial: true }],
  ['LSTM of short sequences, both ways, from zero', { direction: 'bidirectional', lengths: [3, 5, 1] }],
  ['GRU', { operator: 'GRU', bias: true }],
  ['GRU with linear_before_reset', { operator: 'GRU', bias: true, linearBeforeReset: true, initial: true }],
  ['GRU both ways', { operator: 'GRU', direction: 'bidirectional', lengths: [1, 5, 2] }],
  ['RNN', { operator: 'RNN', direction: 'bidirectional', bias: true, initial: true }],
  ['RNN with Relu', { operator: 'RNN', activations: ['Relu'], bias: true }],
  ...[7, 11, 13, 14, 18, 21, 22].flatMap((opset): [string, Setup][] => [
    [`LSTM in opset ${opset}`, { opset, bias: true, lengths: [4, 5, 2] }],
    [`GRU in opset ${opset}`, { operator: 'GRU', opset, initial: true, direction: 'reverse' }],
  ]),
]

describe('recurrent weights', () => {
  it.each(setups)('%s: the states by the equations, shifted by one step', async (_name, setup) => {
    const { model, feeds, states, x } = build(setup)
    const y = (await runModel(model, feeds)).get('y')!.data as Float32Array
    expectClose(y, states.y, 'Y')

    const recurrent = tapIn(model, 'r')
    expect(recurrent.tap.blocks).toBe(states.before.length)
    expect(recurrent.tap.reads).toEqual(Object.keys(feeds).sort((a, b) => order.indexOf(a) - order.indexOf(b)))
    // Both directions have as many positions.
    const expected = slowStatistics(states.before)
    expectStatistics(await runTap(recurrent.tap, recurrent.index, { quantized: feeds }), expected)

    const input = tapIn(model, 'w')
    // Step by step is not the order of tokens.
    expect([input.tap.blocks, input.tap.positions]).toEqual([1, 'other'])
    const steps = slowStatistics([stepsWithin(x, setup.lengths)])
    expectStatistics(await runTap(input.tap, input.index, { quantized: feeds }), steps)
  })

  it('relate the states of the float node to those of the quantized one', async () => {
    const setup: Setup = { direction: 'bidirectional', bias: true, initial: true, lengths: [5, 3, 4] }
    const quantized = build(setup, 1)
    const float = build(setup, 50)
    const { index, tap } = tapIn(quantized.model, 'r')
    const actual = await runTap(tap, index, { quantized: quantized.feeds, float: float.feeds })
    expectStatistics(actual, slowStatistics(quantized.states.before, float.states.before))

    const input = tapIn(quantized.model, 'w')
    const both = await runTap(input.tap, input.index, { quantized: quantized.feeds, float: float.feeds })
    const [x, f] = [quantized, float].map((side) => [stepsWithin(side.x, setup.lengths)])
    expectStatistics(both, slowStatistics(x!, f!))
  })

  it('have keys of their own: two nodes that share R see different states', () => {
    const { model } = build({})
    const attributes = { hidden_size: HIDDEN, clip: { float: 0.1 } }
    const second = makeNode('LSTM', ['x', 'w', 'r'], ['z'], { attributes })
    model.graph!.node.push(second)
    expect(tapIn(model, 'r', 0).tap.key).not.toBe(tapIn(model, 'r', 1).tap.key)
    expect(tapIn(model, 'w', 0).tap.key).toBe(tapIn(model, 'w', 1).tap.key)
  })

  it('do not read padding as if it were data: W of a node with lengths has a key of its own', () => {
    const { model } = build({ lengths: [5, 3, 4] })
    const second = makeNode('LSTM', ['x', 'w', 'r'], ['z'], { attributes: { hidden_size: HIDDEN } })
    model.graph!.node.push(second)
    expect(tapIn(model, 'w', 0).tap.key).not.toBe(tapIn(model, 'w', 1).tap.key)
  })

  it('of a layout or opset that cannot be run have a reason', () => {
    const { model, node } = build({})
    model.opsetImport[0]!.version = 6n
    expect(reasonIn(model, 'r')).toBe('what LSTM computes in opset 6 is not known')
    model.opsetImport[0]!.version = 17n
    node.attribute.push(makeAttribute('layout', 1))
    for (const name of ['w', 'r'])
      expect(reasonIn(model, name)).toBe('onnxruntime does not run the LSTM that reads it, because of its layout')
  })

  it('are not cut along the steps', () => {
    const { model } = build({ lengths: [5, 5, 5] })
    for (const name of ['w', 'r']) expect(unfoldedElements(tapIn(model, name).tap, [[STEPS, BATCH, INPUTS]])).toBe(0)
  })
})

const order = ['x', 'w', 'r', 'b', 'lengths', 'h0', 'c0', 'p']
