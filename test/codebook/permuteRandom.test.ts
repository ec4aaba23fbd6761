/**
 * Random networks of operators that keep, move, mix and cut channels: whatever is found to be permutable must compute the same,
 * bit for bit. Nothing here knows what should be found.
 */
import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { applyPermutationsInPlace } from '../../src/codebook/permute/applyPermutations.ts'
import { findPermutable } from '../../src/codebook/permute/permutable.ts'
import { cloneModel } from '../../src/onnx/clone.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { makeRandom, type Random } from '../../src/random.ts'
import { inMemory, Net, run } from './permuteModels.ts'

const X = [2, 4, 4, 4]
const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

interface Value {
  readonly name: string
  readonly dims: readonly number[]
}

/** One random step from a value, or undefined where it is not possible. */
type Step = (net: Net, value: Value, random: Random, earlier: readonly Value[]) => Value | undefined

/** Integers again, and small ones. */
const clipped = (net: Net, name: string) =>
  net.op('Clip', [net.op('Round', [name]), net.constant([], [-8]), net.constant([], [8])])

let count = 0
const fresh = () => `p${count++}`

/** A constant that broadcasts to a shape. */
function broadcast(net: Net, dims: readonly number[], random: Random): string {
  const own = dims.slice(random.below(dims.length)).map((dim) => (random.below(2) === 0 ? dim : 1))
  return net.weight(fresh(), own)
}

function factors(total: number, parts: number, random: Random): number[] {
  const dims: number[] = []
  let rest = total
  for (let i = 1; i < parts; i++) {
    const divisors = Array.from({ length: rest }, (_, d) => d + 1).filter((d) => rest % d === 0)
    const dim = divisors[random.below(divisors.length)]!
    dims.push(dim)
    rest /= dim
  }
  return [...dims, rest]
}

const isImage = ({ dims }: Value) => dims.length === 4 && dims[2]! > 1 && dims[3]! > 1
const same = (name: string, { dims }: Value): Value => ({ name, dims })

const STEPS: readonly Step[] = [
  (net, value) => same(net.op('Relu', [value.name]), value),
  (net, value, random) => same(clipped(net, net.op('Mul', [value.name, broadcast(net, value.dims, random)])), value),
  (net, value, random) => same(clipped(net, net.op('Add', [broadcast(net, value.dims, random), value.name])), value),
  (net, value, random, earlier) => {
    const fitting = earlier.filter(({ dims }) => dims.join() === value.dims.join())
    const other = fitting[random.below(fitting.length)]
    const op = random.below(3) === 0 ? 'Add' : 'Mul'
    return other && same(clipped(net, net.op(op, [value.name, other.name])), value)
  },
  (net, value, random) => {
    const perm = value.dims.map((_, i) => i).sort(() => random.uniform() - 0.5)
    return { name: net.op('Transpose', [value.name], { perm }), dims: perm.map((axis) => value.dims[axis]!) }
  },
  (net, value, random) => {
    // Also the shape as it is, and one that only joins the last axes.
    const keep = random.below(value.dims.length)
    const rest = factors(product(value.dims.slice(keep)), 1 + random.below(2), random)
    const dims = [...value.dims.slice(0, keep), ...rest]
    const asked = dims.map((dim, i) => (i < keep && random.below(2) === 0 ? 0 : dim))
    if (random.below(3) === 0) asked[random.below(asked.length)] = -1
    return { name: net.op('Reshape', [value.name, net.integers(asked)]), dims }
  },
  (net, value, random) => {
    const axis = random.below(value.dims.length)
    const dims = [product(value.dims.slice(0, axis)), product(value.dims.slice(axis))]
    return { name: net.op('Flatten', [value.name], { axis }), dims }
  },
  (net, value, random) => {
    if (value.dims.length < 3) return undefined
    const axis = random.below(value.dims.length)
    const keepdims = random.below(2)
    const dims = value.dims.flatMap((dim, i) => (i === axis ? (keepdims ? [1] : []) : [dim]))
    const name = net.op('ReduceMax', [value.name], {
      axes: [random.below(2) ? axis : axis - value.dims.length],
      keepdims,
    })
    return { name, dims }
  },
  (net, value, random) => {
    if (value.dims.length > 4) return undefined
    const axis = random.below(value.dims.length + 1)
    return {
      name: net.op('Unsqueeze', [value.name, net.integers([axis])]),
      dims: [...value.dims.slice(0, axis), 1, ...value.dims.slice(axis)],
    }
  },
  (net, value) => {
    const axis = value.dims.indexOf(1)
    if (axis < 0 || value.dims.length < 3) return undefined
    return {
      name: net.op('Squeeze', [value.name, net.integers([axis])]),
      dims: value.dims.filter((_, i) => i !== axis),
    }
  },
  (net, value, random) => {
    const axis = random.below(value.dims.length)
    const pads = value.dims.flatMap(() => [0, 0])
    pads[axis] = 1
    return {
      name: net.op('Pad', [value.name, net.integers(pads)]),
      dims: value.dims.map((dim, i) => (i === axis ? dim + 1 : dim)),
    }
  },
  (net, value) => {
    if (value.dims.length < 2) return undefined
    return same(clipped(net, net.norm(fresh(), value.name, value.dims[1]!)), value)
  },
  (net, value) =>
    isImage(value)
      ? { name: net.op('GlobalMaxPool', [value.name]), dims: [...value.dims.slice(0, 2), 1, 1] }
      : undefined,
  (net, value) => {
    if (!isImage(value)) return undefined
    const [batch, channels, h, w] = value.dims
    const name = net.op('MaxPool', [value.name], { kernel_shape: [2, 2] })
    return { name, dims: [batch!, channels!, h! - 1, w! - 1] }
  },
  (net, value) => {
    const channels = value.dims[1]!
    if (value.dims.length !== 4 || channels < 2) return undefined
    return same(clipped(net, net.conv(fresh(), value.name, [channels, 1, 3, 3], { group: channels })), value)
  },
  (net, value) => {
    if (value.dims.length !== 4) return undefined
    const name = clipped(net, net.conv(fresh(), value.name, [4, value.dims[1]!, 3, 3]))
    return { name, dims: [value.dims[0]!, 4, ...value.dims.slice(2)] }
  },
  (net, value) => {
    const to = value.dims.at(-1)! < 8 ? 16 : 6
    const name = clipped(net, net.linear(fresh(), value.name, value.dims.at(-1)!, to))
    return { name, dims: [...value.dims.slice(0, -1), to] }
  },
]

function randomNetwork(seed: number): OnnxModel {
  count = 0
  const random = makeRandom(seed)
  const net = new Net('integers')
  let value: Value = { name: 'x', dims: X }
  const conv = STEPS.at(-2)!
  const linear = STEPS.at(-1)!
  value = (random.below(2) === 0 ? conv : linear)(net, value, random, [])!
  const earlier: Value[] = [value]
  for (let steps = 2 + random.below(4); steps > 0; ) {
    const next = STEPS[random.below(STEPS.length)]!(net, value, random, earlier)
    if (!next || product(next.dims) > 4096) continue
    value = next
    earlier.push(value)
    steps--
  }
  net.linear(fresh(), value.name, value.dims.at(-1)!, 5, 'y')
  return inMemory(net.model([undefined, ...X.slice(1)]))
}

describe('random networks', () => {
  it('compute the same, bit for bit, with all that is permutable permuted', async () => {
    let sensitive = 0
    for (let seed = 0; seed < 300; seed++) {
      const model = randomNetwork(seed)
      const { index, layers } = modelLayers(model.proto)
      const { sets } = findPermutable(analyseMainGraph(index), layers)
      if (sets.length === 0) continue
      const copy = cloneModel(model)
      // Reversed, and turned by one: no channel of three or more stays where it was.
      const permutations = sets.map((set) => {
        const order = Array.from({ length: set.channels }, (_, c) => (2 * set.channels - c) % set.channels)
        return { set, order: set.channels > 2 ? order.map((c) => (c + 1) % set.channels) : [1, 0] }
      })
      applyPermutationsInPlace(copy, permutations)
      const [x, y] = [await run(model, X, 'integers'), await run(copy, X, 'integers')]
      expect(Buffer.from(y.buffer).equals(Buffer.from(x.buffer)), `seed ${seed}`).toBe(true)
      // The same without what belongs to it shows that the network tells the orders apart.
      if (seed % 3 !== 0) continue
      const partly = cloneModel(model)
      applyPermutationsInPlace(
        partly,
        permutations.map(({ set, order }) => ({ set: { ...set, axes: set.axes.slice(0, 1) }, order })),
      )
      const z = await run(partly, X, 'integers')
      if (!Buffer.from(z.buffer).equals(Buffer.from(x.buffer))) sensitive++
    }
    expect(sensitive).toBeGreaterThan(20)
  })
})
