/** Channels in another order: the network computes the same bit for bit where sums are exact, and every byte comes back. */
import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { applyPermutationsInPlace } from '../../src/codebook/permute/applyPermutations.ts'
import { orderOfRows } from '../../src/codebook/permute/channelSet.ts'
import { findPermutable } from '../../src/codebook/permute/permutable.ts'
import { cloneModel } from '../../src/onnx/clone.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { makeRandom } from '../../src/random.ts'
import { bytesOf, inMemory, Net, type Numbers, run } from './permuteModels.ts'

function permutableOf({ proto }: OnnxModel) {
  const { index, layers } = modelLayers(proto)
  return findPermutable(analyseMainGraph(index), layers)
}

/** A seeded order without fixed points at its ends. */
function shuffled(length: number, seed: number): number[] {
  const random = makeRandom(seed)
  const order = Array.from({ length }, (_, i) => i)
  for (let i = length - 1; i > 0; i--) {
    const j = random.below(i)
    ;[order[i], order[j]] = [order[j]!, order[i]!]
  }
  return order
}

interface Case {
  /** Of x. */
  readonly dims: readonly number[]
  readonly build: (net: Net) => void
  /** Layers of each set, by the names of their weights. */
  readonly sets: readonly (readonly string[])[]
  /** Constants that are permuted besides these weights. */
  readonly along: readonly string[]
  readonly opset?: number
}

const relu = (net: Net, x: string) => net.op('Relu', [x])
const gelu = (net: Net, x: string) => {
  const erf = net.op('Erf', [net.op('Div', [x, net.constant([], [Math.SQRT2])])])
  const gate = net.op('Add', [erf, net.constant([], [1])])
  return net.op('Mul', [net.op('Mul', [x, gate]), net.constant([], [0.5])])
}
const silu = (net: Net, x: string) => net.op('Mul', [x, net.op('Sigmoid', [x])])

/** x → fc1 → activation → fc2 → y, 8 → 12 → 10. */
const mlp = (middle: (net: Net, x: string) => string, along: readonly string[] = []): Case => ({
  dims: [2, 5, 8],
  build: (net) => {
    const hidden = net.settle(middle(net, net.linear('fc1', 'x', 8, 12)))
    net.linear('fc2', hidden, 12, 10, 'y')
  },
  sets: [['fc1.weight']],
  along: ['fc1.bias', 'fc2.weight', ...along],
})

const gemms = (first: number, second: number): Case => ({
  dims: [4, 8],
  build: (net) => {
    const one = net.weight('fc1.weight', first ? [12, 8] : [8, 12])
    const hidden = relu(net, net.op('Gemm', ['x', one, net.weight('fc1.bias', [1, 12])], { transB: first }))
    const two = net.weight('fc2.weight', second ? [10, 12] : [12, 10])
    const attributes = { transB: second, alpha: { float: 0.5 }, beta: { float: 2 } }
    net.op('Gemm', [hidden, two, net.weight('fc2.bias', [10])], attributes, 'y')
  },
  sets: [['fc1.weight']],
  along: ['fc1.bias', 'fc2.weight'],
})

/** x [2, 3, 6, 6] → conv 3×3 to 8 channels → what is in between → conv to 5. */
const convs = (
  middle: (net: Net, x: string) => string,
  along: readonly string[],
  more: Partial<Case> & { readonly channels?: number } = {},
): Case => ({
  dims: [2, 3, 6, 6],
  build: (net) => {
    const hidden = net.settle(middle(net, net.conv('a', 'x', [8, 3, 3, 3])))
    net.conv('b', hidden, [5, more.channels ?? 8, 3, 3], {}, 'y')
  },
  sets: [['a.weight']],
  along: ['a.bias', 'b.weight', ...along],
  ...more,
})

/** x → conv to 8 channels of 6 × 6 → what is in between → linear layer on `inputs` values. */
const head = (inputs: number, middle: (net: Net, x: string) => string, along: readonly string[] = []): Case => ({
  dims: [2, 3, 6, 6],
  build: (net) => {
    const values = net.settle(middle(net, relu(net, net.conv('a', 'x', [8, 3, 3, 3]))))
    net.op('Gemm', [values, net.weight('fc.weight', [10, inputs]), net.weight('fc.bias', [10])], { transB: 1 }, 'y')
  },
  sets: [['a.weight']],
  along: ['a.bias', 'fc.weight', ...along],
})

/** The shape [batch, −1], as tracing exporters write it. */
const batchAndRest = (net: Net, x: string) => {
  const batch = net.op('Gather', [net.op('Shape', [x]), net.integers([0], [])])
  return net.op('Concat', [net.op('Unsqueeze', [batch, net.integers([0])]), net.integers([-1])], { axis: 0 })
}

const BN = ['norm.scale', 'norm.shift', 'norm.mean', 'norm.var']
const squeezed = (net: Net, x: string) => {
  const mean = net.settle(net.op('GlobalAveragePool', [x]))
  const less = relu(net, net.conv('se1', mean, [8, 8, 1, 1]))
  return net.op('Mul', [x, net.op('Sigmoid', [net.conv('se2', net.settle(less), [8, 8, 1, 1])])])
}
const squeezedLinear = (net: Net, x: string) => {
  const mean = net.op('Flatten', [net.settle(net.op('GlobalAveragePool', [x]))])
  const less = relu(net, net.linear('se1', mean, 8, 8))
  const gate = net.op('Sigmoid', [net.linear('se2', net.settle(less), 8, 8)])
  return net.op('Mul', [x, net.op('Reshape', [gate, net.integers([0, 8, 1, 1])])])
}
const depthwise = (net: Net, x: string) => {
  const before = relu(net, net.norm('norm', x, 8))
  return relu(net, net.conv('dw', net.settle(before), [8, 1, 3, 3], { group: 8 }))
}

const CASES: Readonly<Record<string, Case>> = {
  'MLP with Relu': mlp(relu),
  'MLP with Gelu of single operators': mlp(gelu),
  'MLP with the Gelu of tanh': mlp((net, x) => {
    const cube = net.op('Mul', [net.op('Pow', [x, net.constant([], [3])]), net.constant([], [0.045])])
    const tanh = net.op('Tanh', [net.op('Mul', [net.op('Add', [x, cube]), net.constant([1], [0.8])])])
    return net.op('Mul', [x, net.op('Add', [tanh, net.constant([], [1])])])
  }),
  'MLP with FastGelu and its bias': mlp(
    (net, x) => net.op('FastGelu', [x, net.weight('late', [12])], {}, undefined, 'com.microsoft'),
    ['late'],
  ),
  'MLP with a vector, a factor and tokens on one axis': mlp(
    (net, x) => {
      const scaled = net.op('Mul', [net.weight('gain', [1, 12]), relu(net, x)])
      return net.op('Reshape', [net.op('Div', [scaled, net.constant([1, 1], [2])]), net.integers([-1, 12])])
    },
    ['gain'],
  ),
  'a gated MLP': {
    dims: [2, 5, 8],
    build: (net) => {
      const gate = silu(net, net.linear('gate', 'x', 8, 12))
      const hidden = net.op('Mul', [gate, net.linear('up', 'x', 8, 12)])
      net.linear('down', net.settle(hidden), 12, 10, 'y')
    },
    sets: [['gate.weight', 'up.weight']],
    along: ['gate.bias', 'up.bias', 'down.weight'],
  },
  'channels that make their own gate': {
    dims: [2, 5, 8],
    build: (net) => {
      const one = net.settle(relu(net, net.linear('fc1', 'x', 8, 12)))
      const gate = net.op('Sigmoid', [net.linear('gate', one, 12, 12)])
      net.linear('fc2', net.settle(net.op('Mul', [gate, one])), 12, 10, 'y')
    },
    sets: [['fc1.weight', 'gate.weight']],
    along: ['fc1.bias', 'gate.bias', 'fc2.weight'],
  },
  'two layers in a row, and several readers': {
    dims: [4, 8],
    build: (net) => {
      const one = relu(net, net.linear('fc1', 'x', 8, 12))
      const two = relu(net, net.linear('fc2', one, 12, 16))
      net.op('Concat', [net.linear('l', two, 16, 5), net.linear('r', two, 16, 7)], { axis: 1 }, 'y')
    },
    sets: [['fc1.weight'], ['fc2.weight']],
    along: ['fc1.bias', 'fc2.bias', 'l.weight', 'r.weight'],
  },
  Gemm: gemms(0, 0),
  'Gemm with transB': gemms(1, 1),
  'Gemm with transB on one side': gemms(0, 1),
  'float16 weights behind Cast and Transpose': {
    dims: [4, 8],
    build: (net) => {
      const one = net.op('Cast', [net.weight('fc1.weight', [12, 8], { half: true })], { to: 1 })
      const hidden = relu(net, net.op('MatMul', ['x', net.op('Transpose', [one], { perm: [1, 0] })]))
      const two = net.op('Cast', [net.op('Transpose', [net.weight('fc2.weight', [10, 12], { half: true })])], { to: 1 })
      net.op('MatMul', [hidden, two], {}, 'y')
    },
    sets: [['fc1.weight']],
    along: ['fc2.weight'],
  },
  'convolutions with Relu': convs(relu, []),
  'convolutions with BatchNormalization, Relu and a depthwise one': convs(depthwise, [...BN, 'dw.bias'], {
    sets: [['a.weight', 'dw.weight']],
  }),
  'a depthwise convolution with two outputs a channel': convs(
    (net, x) => net.conv('dw', x, [16, 1, 3, 3], { group: 8 }),
    ['dw.bias'],
    { sets: [['a.weight', 'dw.weight']], channels: 16 },
  ),
  'PRelu, pools, Pad and Resize': convs(
    (net, x) => {
      const soft = net.op('PRelu', [x, net.weight('slope', [8, 1, 1])])
      const pooled = net.op('AveragePool', [soft], { kernel_shape: [2, 2] })
      const least = net.op('MaxPool', [pooled], { kernel_shape: [2, 2], strides: [2, 2] })
      const padded = net.op('Pad', [least, net.integers([0, 0, 1, 0, 0, 0, 0, 1])])
      return net.op('Resize', [padded, '', net.constant([4], [1, 1, 2, 2])], { mode: 'linear' })
    },
    ['slope'],
  ),
  'squeeze and excitation': convs((net, x) => squeezed(net, relu(net, x)), ['se1.bias', 'se2.bias'], {
    sets: [['a.weight', 'se2.weight'], ['se1.weight']],
  }),
  'squeeze and excitation with linear layers': convs(
    (net, x) => squeezedLinear(net, relu(net, x)),
    ['se1.bias', 'se2.bias'],
    { sets: [['a.weight', 'se2.weight'], ['se1.weight']] },
  ),
  'channels last and a linear layer': {
    dims: [2, 3, 6, 6],
    build: (net) => {
      const last = net.op('Transpose', [net.conv('a', 'x', [8, 3, 3, 3])], { perm: [0, 2, 3, 1] })
      net.linear('fc', net.settle(gelu(net, last)), 8, 10, 'y')
    },
    sets: [['a.weight']],
    along: ['a.bias', 'fc.weight'],
  },
  'a gate whose weight is stored with positions first': {
    dims: [2, 4, 6, 6],
    build: (net) => {
      const turned = net.op('Transpose', [net.weight('gate.weight', [3, 3, 4, 8])], { perm: [3, 2, 0, 1] })
      const gate = net.op('Sigmoid', [net.op('Conv', ['x', turned], { pads: [1, 1, 1, 1] })])
      const hidden = net.op('Mul', [gate, net.conv('a', 'x', [8, 4, 3, 3])])
      net.conv('b', net.settle(hidden), [5, 8, 3, 3], {}, 'y')
    },
    sets: [['a.weight']],
    along: ['a.bias', 'b.weight', 'gate.weight'],
  },
  'a convolution over time': {
    dims: [2, 4, 9],
    build: (net) => {
      const hidden = relu(net, net.conv('a', 'x', [8, 4, 3]))
      net.op('ConvTranspose', [hidden, net.weight('up.weight', [8, 5, 3])], {}, 'y')
    },
    sets: [['a.weight']],
    along: ['a.bias', 'up.weight'],
  },
  Flatten: head(8 * 9, (net, x) =>
    net.op('Flatten', [net.op('MaxPool', [x], { kernel_shape: [2, 2], strides: [2, 2] })]),
  ),
  'Flatten and vectors behind it': head(
    8 * 36,
    (net, x) => net.op('Add', [net.norm('norm', net.op('Flatten', [x]), 8 * 36), net.weight('late', [8 * 36])]),
    [...BN, 'late'],
  ),
  'Reshape to [0, −1]': head(8 * 36, (net, x) => net.op('Reshape', [x, net.integers([0, -1])])),
  'Reshape with the size of the batch': head(8 * 36, (net, x) => net.op('Reshape', [x, batchAndRest(net, x)])),
  'a global pool and Reshape': head(8, (net, x) =>
    net.op('Reshape', [net.op('GlobalMaxPool', [x]), net.integers([-1, 8])]),
  ),
  'means over positions': head(8, (net, x) => net.op('ReduceMean', [x], { axes: [2, 3], keepdims: 0 })),
  'means over positions, kept, and Squeeze': head(8, (net, x) =>
    net.op('Squeeze', [net.op('ReduceMean', [x], { axes: [-1, -2] }), net.integers([2, 3])]),
  ),
}

const names = Object.keys(CASES)

function built(name: string, numbers: Numbers): OnnxModel {
  const { build, dims, opset } = CASES[name]!
  const net = new Net(numbers)
  build(net)
  return inMemory(net.model([undefined, ...dims.slice(1)], opset))
}

function permuted(model: OnnxModel, seed = 1): OnnxModel {
  const copy = cloneModel(model)
  const { sets } = permutableOf(model)
  const permutations = sets.map((set, i) => ({ set, order: shuffled(set.channels, seed + i) }))
  applyPermutationsInPlace(copy, permutations)
  return copy
}

describe('permuted channels', () => {
  it.each(names)('leave integers as they are, bit for bit: %s', async (name) => {
    const { dims, sets: wanted, along } = CASES[name]!
    const model = built(name, 'integers')
    const { sets } = permutableOf(model)
    expect(sets.map(({ layers }) => layers.map(({ constant }) => constant.name))).toEqual(wanted)
    const after = permuted(model)
    const old = bytesOf(model)
    const changed = [...bytesOf(after)].filter(([key, bytes]) => !bytes.equals(old.get(key)!)).map(([key]) => key)
    expect(changed.sort()).toEqual([...new Set([...wanted.flat(), ...along])].sort())
    const [x, y] = [await run(model, dims, 'integers'), await run(after, dims, 'integers')]
    expect(new Set(x).size).toBeGreaterThan(4)
    expect(Buffer.from(y.buffer).equals(Buffer.from(x.buffer))).toBe(true)
  })

  it.each(names)('leave numbers as they are but for the order of sums: %s', async (name) => {
    const { dims } = CASES[name]!
    const model = built(name, 'numbers')
    const [x, y] = [await run(model, dims, 'numbers'), await run(permuted(model), dims, 'numbers')]
    const scale = Math.max(...x.map(Math.abs))
    expect(Math.max(...x.map((v, i) => Math.abs(v - y[i]!))) / scale).toBeLessThan(1e-5)
  })

  it.each(names)('and the inverse order give back every byte: %s', (name) => {
    const model = built(name, 'numbers')
    const copy = cloneModel(model)
    const { sets } = permutableOf(model)
    const orders = sets.map(({ channels }, i) => shuffled(channels, 20 + i))
    const inverse = orders.map((order) => order.map((_, c) => order.indexOf(c)))
    applyPermutationsInPlace(
      copy,
      sets.map((set, i) => ({ set, order: orders[i]! })),
    )
    applyPermutationsInPlace(
      copy,
      sets.map((set, i) => ({ set, order: inverse[i]! })),
    )
    expect(bytesOf(copy)).toEqual(bytesOf(model))
  })

  it.each(names)('put the rows of layers where the order of rows says: %s', (name) => {
    const model = built(name, 'numbers')
    for (const [i, set] of permutableOf(model).sets.entries()) {
      const order = shuffled(set.channels, 5 + i)
      const copy = cloneModel(model)
      applyPermutationsInPlace(copy, [{ set, order }])
      for (const layer of set.layers) {
        const rows = orderOfRows(set, layer, order)
        const [before, after] = [model, copy].map((of) => rowSums(bytesOf(of).get(layer.constant.name)!, layer))
        expect(after).toEqual([...rows].map((row) => before![row]))
      }
    }
  })
})

/** Sorted bytes of each row: what does not depend on the order of the columns. */
function rowSums(bytes: Buffer, { dims, view, weights }: ReturnType<typeof modelLayers>['layers'][number]): string[] {
  const size = bytes.length / weights
  expect(dims.reduce((a, b) => a * b, 1)).toBe(weights)
  return Array.from({ length: view.outer * view.inner }, (_, row) => {
    const [outer, inner] = [Math.floor(row / view.inner), row % view.inner]
    const cells = Array.from({ length: view.reduction }, (_, k) => {
      const at = ((outer * view.reduction + k) * view.inner + inner) * size
      return bytes.subarray(at, at + size).toString('hex')
    })
    return cells.sort().join()
  })
}
