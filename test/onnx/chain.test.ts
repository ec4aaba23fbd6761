/** Weights seen through shape-only nodes, against an oracle that follows every element. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type ChainStep, chainStep, movesConstantsOnly, pullBack } from '../../src/onnx/chain.ts'
import { indexModel, type Scope } from '../../src/onnx/graph.ts'
import type { WeightView } from '../../src/onnx/operators.ts'
import { DataType, type ModelProto, makeNode, makeTensor, type NodeProto } from '../../src/onnx/proto.ts'
import { constant, FLOAT, floats, model, value } from '../helpers/smallModels.ts'
import {
  countOf,
  type Traced,
  tracedRows,
  traceReshape,
  traceStored,
  traceTranspose,
} from '../oracles/movedElements.ts'

const int64 = (name: string, values: readonly number[]) =>
  makeTensor({ name, dims: [BigInt(values.length)], dataType: DataType.INT64, int64Data: values.map(BigInt) })

const scopeOf = (proto: ModelProto): Scope => indexModel(proto).scopes[0]!

/** One move: what the oracle does, and the node with its constants. */
interface Move {
  readonly after: Traced
  readonly make: (input: string, output: string) => { node: NodeProto; constants: ReturnType<typeof int64>[] }
}

const plain = (
  opType: string,
  attributes: Record<string, number | readonly number[]> = {},
): Pick<Move, 'make'>['make'] => {
  return (input, output) => ({ node: makeNode(opType, [input], [output], { attributes }), constants: [] })
}

/** Axes or a shape, as an attribute (old opsets) or as a second input (new ones). */
function withIntegers(opType: string, name: string, values: readonly number[], asInput: boolean): Move['make'] {
  if (!asInput) return plain(opType, { [name]: values })
  return (input, output) => ({
    node: makeNode(opType, [input, `${output}.${name}`], [output]),
    constants: [int64(`${output}.${name}`, values)],
  })
}

/** A random split of `count` into at most four factors, ones included. */
function factors(count: number): fc.Arbitrary<number[]> {
  const divisors = Array.from({ length: count }, (_, i) => i + 1).filter((d) => count % d === 0)
  return fc.array(fc.constantFrom(...divisors), { maxLength: 3 }).map((wanted) => {
    const dims: number[] = []
    let rest = count
    for (const d of wanted) {
      if (rest % d !== 0) continue
      dims.push(d)
      rest /= d
    }
    return [...dims, rest]
  })
}

function moves(before: Traced): fc.Arbitrary<Move> {
  const { dims } = before
  const rank = dims.length
  const transpose = fc.shuffledSubarray([...dims.keys()], { minLength: rank, maxLength: rank }).map((perm): Move => {
    const reversed = perm.every((axis, i) => axis === rank - 1 - i)
    // Without the attribute ONNX reverses the axes.
    return { after: traceTranspose(before, perm), make: plain('Transpose', reversed ? {} : { perm }) }
  })
  const reshape = fc.tuple(factors(countOf(dims)), fc.nat(), fc.boolean()).map(([to, pick, asInput]): Move => {
    const written = [...to]
    written[pick % to.length] = -1
    // A zero copies the dimension at the same place.
    const zero = written.findIndex((d, i) => d !== -1 && d === dims[i])
    if (zero >= 0 && pick % 2 === 0) written[zero] = 0
    return { after: traceReshape(before, to), make: withIntegers('Reshape', 'shape', written, asInput) }
  })
  const ones = [...dims.keys()].filter((axis) => dims[axis] === 1)
  const squeeze = fc.tuple(fc.subarray(ones), fc.boolean(), fc.boolean()).map(([axes, negative, asInput]): Move => {
    const gone = axes.length > 0 ? axes : ones
    const to = dims.filter((_, axis) => !gone.includes(axis))
    const after = traceReshape(before, to)
    if (axes.length === 0) return { after, make: plain('Squeeze') }
    const written = axes.map((axis) => (negative ? axis - rank : axis))
    return { after, make: withIntegers('Squeeze', 'axes', written, asInput) }
  })
  const unsqueeze = fc.tuple(fc.uniqueArray(fc.nat(rank), { minLength: 1, maxLength: 2 }), fc.boolean(), fc.boolean())
  const unsqueezed = unsqueeze.map(([axes, negative, asInput]): Move => {
    const full = rank + axes.length
    const rest = [...dims]
    const to = Array.from({ length: full }, (_, axis) => (axes.includes(axis) ? 1 : rest.shift()!))
    const written = axes.map((axis) => (negative ? axis - full : axis))
    return { after: traceReshape(before, to), make: withIntegers('Unsqueeze', 'axes', written, asInput) }
  })
  const flatten = fc.integer({ min: -rank, max: rank }).map((axis): Move => {
    const at = axis < 0 ? axis + rank : axis
    const to = [countOf(dims.slice(0, at)), countOf(dims.slice(at))]
    return { after: traceReshape(before, to), make: plain('Flatten', axis === 1 ? {} : { axis }) }
  })
  const still = fc.constantFrom<Move>(
    { after: before, make: plain('Identity') },
    { after: before, make: plain('Cast', { to: DataType.FLOAT16 }) },
  )
  const kinds = [transpose, transpose, reshape, unsqueezed, flatten, still]
  return fc.oneof(...kinds, ...(ones.length > 0 ? [squeeze] : []))
}

interface Chain {
  readonly stored: readonly number[]
  readonly moves: readonly Move[]
  readonly last: Traced
  /** Axes that the consumer sums over. */
  readonly from: number
  readonly to: number
}

const chains: fc.Arbitrary<Chain> = fc
  .array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 })
  .chain((stored) => grow(stored, [], traceStored(stored), 4))
  .chain(({ stored, moves: made, last }) =>
    fc.tuple(fc.nat(), fc.nat()).map(([a, b]): Chain => {
      // A scalar stays where everything was squeezed away: seen as one axis.
      const traced = last.dims.length > 0 ? last : { dims: [1], origin: last.origin }
      const from = a % traced.dims.length
      const to = from + 1 + (b % (traced.dims.length - from))
      return { stored, moves: made, last: traced, from, to }
    }),
  )

function grow(
  stored: readonly number[],
  made: readonly Move[],
  last: Traced,
  left: number,
): fc.Arbitrary<Pick<Chain, 'stored' | 'moves' | 'last'>> {
  if (left === 0 || last.dims.length === 0) return fc.constant({ stored, moves: made, last })
  return fc.oneof(
    { weight: 1, arbitrary: fc.constant({ stored, moves: made, last }) },
    {
      weight: 4,
      arbitrary: moves(last).chain((move) => grow(stored, [...made, move], move.after, left - 1)),
    },
  )
}

/** The steps as the product sees them; their shapes must be those of the oracle. */
function stepsOf({ stored, moves: made }: Pick<Chain, 'stored' | 'moves'>): ChainStep[] {
  const parts = made.map((move, i) => move.make(i === 0 ? 'w' : `t${i}`, `t${i + 1}`))
  const scope = scopeOf(
    model({
      initializer: [floats('w', stored), ...parts.flatMap((part) => part.constants)],
      node: parts.map((part) => part.node),
    }),
  )
  let dims = stored
  let type: number = FLOAT
  return parts.map(({ node }, i) => {
    const step = chainStep(node, scope, dims, type)
    expect(step?.to, `${node.opType} on [${dims}]`).toEqual(made[i]!.after.dims)
    dims = step!.to
    type = step!.dataType
    return step!
  })
}

/** Stored positions of a view's rows: row outer·inner, column reduction. */
function viewRows({ outer, reduction, inner }: WeightView): number[][] {
  return Array.from({ length: outer * inner }, (_, r) =>
    Array.from({ length: reduction }, (_, k) => (Math.floor(r / inner) * reduction + k) * inner + (r % inner)),
  )
}

const viewOf = ({ last, from, to }: Chain): WeightView => ({
  outer: countOf(last.dims.slice(0, from)),
  reduction: countOf(last.dims.slice(from, to)),
  inner: countOf(last.dims.slice(to)),
})

describe('pullBack', () => {
  it('gives a view that covers the stored tensor, and the rows that the consumer sees where it says so', () => {
    let claimed = 0
    let moved = 0
    fc.assert(
      fc.property(chains, (chain) => {
        const { view, sameRows } = pullBack(viewOf(chain), stepsOf(chain))
        const count = countOf(chain.stored)
        expect(
          viewRows(view)
            .flat()
            .sort((a, b) => a - b),
        ).toEqual(Array.from({ length: count }, (_, i) => i))
        if (!sameRows) return
        claimed++
        const identity = chain.last.origin.every((origin, i) => origin === i)
        if (!identity) moved++
        expect(viewRows(view)).toEqual(tracedRows(chain.last, chain.from, chain.to))
      }),
      { numRuns: 3000 },
    )
    // Not proved by claiming nothing.
    expect(claimed).toBeGreaterThan(600)
    expect(moved).toBeGreaterThan(50)
  })

  it('claims the same rows for every matrix through any number of transpositions', () => {
    const sides = fc.integer({ min: 2, max: 6 })
    fc.assert(
      fc.property(sides, sides, fc.array(fc.boolean(), { maxLength: 4 }), fc.boolean(), (n, k, turns, left) => {
        let last = traceStored([n, k])
        const made = turns.map((turn): Move => {
          if (turn) last = traceTranspose(last, [1, 0])
          return { after: last, make: plain(turn ? 'Transpose' : 'Identity') }
        })
        const from = left ? 0 : 1
        const chain = { stored: [n, k], moves: made, last, from, to: from + 1 }
        const { view, sameRows } = pullBack(viewOf(chain), stepsOf(chain))
        expect(sameRows).toBe(true)
        expect(viewRows(view)).toEqual(tracedRows(last, from, from + 1))
      }),
    )
  })

  it('follows attention weights that are kept as heads: [heads, size, in] → [in, heads · size]', () => {
    const stored = traceStored([3, 4, 5])
    const turned = traceTranspose(stored, [2, 0, 1])
    const last = traceReshape(turned, [5, 12])
    const made: Move[] = [
      { after: turned, make: plain('Transpose', { perm: [2, 0, 1] }) },
      { after: last, make: withIntegers('Reshape', 'shape', [5, 12], true) },
    ]
    const chain = { stored: stored.dims, moves: made, last, from: 0, to: 1 }
    expect(pullBack(viewOf(chain), stepsOf(chain))).toEqual({
      view: { outer: 12, reduction: 5, inner: 1 },
      sameRows: true,
    })
  })

  it('keeps the longest axis where a Transpose tears the reduction apart', () => {
    const stored = traceStored([2, 7, 3])
    const last = traceTranspose(stored, [1, 0, 2])
    const move: Move = { after: last, make: plain('Transpose', { perm: [1, 0, 2] }) }
    const chain = { stored: stored.dims, moves: [move], last, from: 0, to: 2 }
    expect(pullBack(viewOf(chain), stepsOf(chain))).toEqual({
      view: { outer: 2, reduction: 7, inner: 3 },
      sameRows: false,
    })
  })
})

describe('chainStep', () => {
  const scope = scopeOf(
    model({
      initializer: [floats('w', [8, 8]), int64('bad', [5, 5]), int64('ok', [64])],
      node: [makeNode('Shape', ['x'], ['asked'])],
      input: [value('x', [1, 8])],
    }),
  )
  const step = (node: NodeProto) => chainStep(node, scope, [8, 8], FLOAT)

  it.each([
    ['a shape that is computed', makeNode('Reshape', ['w', 'asked'], ['y'])],
    ['a shape with another number of elements', makeNode('Reshape', ['w', 'bad'], ['y'])],
    ['a shape that is missing', makeNode('Reshape', ['w'], ['y'])],
    ['axes that are missing', makeNode('Unsqueeze', ['w'], ['y'])],
    ['a cast to integers', makeNode('Cast', ['w'], ['y'], { attributes: { to: DataType.INT8 } })],
    ['another operator', makeNode('Relu', ['w'], ['y'])],
    ['another domain', makeNode('Transpose', ['w'], ['y'], { domain: 'com.example' })],
  ])('takes no step for %s', (_, node) => {
    expect(step(node)).toBeUndefined()
  })

  it('keeps the element type, which only Cast changes', () => {
    expect(step(makeNode('Reshape', ['w', 'ok'], ['y']))).toMatchObject({ to: [64], dataType: FLOAT })
    const cast = makeNode('Cast', ['w'], ['y'], { attributes: { to: DataType.DOUBLE } })
    expect(step(cast)).toMatchObject({ to: [8, 8], dataType: DataType.DOUBLE })
  })

  it('knows the default domain by both of its names', () => {
    expect(step(makeNode('Flatten', ['w'], ['y'], { domain: 'ai.onnx' }))?.to).toEqual([8, 8])
  })

  it('takes no step where the shape lies in a data file, and so is not here', () => {
    const outside = makeTensor({ name: 'axes', dims: [1n], dataType: DataType.INT64 })
    const small = scopeOf(model({ initializer: [floats('w', [64, 1]), outside] }))
    for (const opType of ['Squeeze', 'Unsqueeze', 'Reshape']) {
      const taken = chainStep(makeNode(opType, ['w', 'axes'], ['y']), small, [64, 1], FLOAT)
      expect(taken?.to, opType).toBeUndefined()
    }
  })
})

describe('movesConstantsOnly', () => {
  const proto = model({
    initializer: [floats('a', [8, 8]), floats('b', [8, 8]), int64('zero', [0]), int64('four', [4])],
    node: [
      constant('c', floats('', [8, 8])),
      makeNode('Slice', ['a', 'zero', 'four'], ['cut']),
      makeNode('Concat', ['cut', 'b', 'c'], ['joined'], { attributes: { axis: 0 } }),
      makeNode('Concat', ['joined', 'x'], ['fed'], { attributes: { axis: 0 } }),
      makeNode('Add', ['a', 'b'], ['sum']),
      makeNode('Concat', ['sum', 'b'], ['computed'], { attributes: { axis: 0 } }),
    ],
    input: [value('x', [8, 8])],
  })
  const scope = scopeOf(proto)

  it.each([
    ['cut', true],
    ['joined', true],
    ['fed', false],
    ['sum', false],
    ['computed', false],
  ])('%s: %s', (name, expected) => {
    expect(movesConstantsOnly(scope.producers.get(name)!, scope)).toBe(expected)
  })

  it('gives up on endless chains', () => {
    const long = Array.from({ length: 40 }, (_, i) => makeNode('Identity', [i === 0 ? 'a' : `i${i}`], [`i${i + 1}`]))
    const many = scopeOf(model({ initializer: [floats('a', [8, 8])], node: long }))
    expect(movesConstantsOnly(many.producers.get('i10')!, many)).toBe(true)
    expect(movesConstantsOnly(many.producers.get('i40')!, many)).toBe(false)
  })
})
