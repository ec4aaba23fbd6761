/** Moving the bytes of constants: any type, wherever they lie; and the channels of attention heads. */
import fs from 'node:fs'
import path from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { applyPermutationsInPlace } from '../../src/codebook/permute/applyPermutations.ts'
import { type ChannelSet, orderAlong, orderOfRows } from '../../src/codebook/permute/channelSet.ts'
import { headChannels } from '../../src/codebook/permute/headChannels.ts'
import { cloneModel } from '../../src/onnx/clone.ts'
import { indexModel } from '../../src/onnx/graph.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { DataType, encodeModel, type ModelProto, makeModel, makeTensor } from '../../src/onnx/proto.ts'
import { elementBits, tensorBytes } from '../../src/onnx/tensorData.ts'
import { findHeads } from '../../src/rsq/heads.ts'
import { constant as constantNode } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { attention, attentionFeeds, fusedAttention } from '../rsq/headModels.ts'
import { runModel } from '../rsq/streamModels.ts'
import { bytesOf, inMemory, Net } from './permuteModels.ts'

function holding(dataType: number, dims: readonly number[], rawData: Uint8Array<ArrayBuffer>): ModelProto {
  const initializer = [makeTensor({ name: 'w', dataType, dims: dims.map(BigInt), rawData })]
  return makeModel({ graph: { name: 'g', initializer } })
}

function setAlong(proto: ModelProto, axis: number, channels: number, block = 1, starts = [0]): ChannelSet {
  const constant = indexModel(proto).scopes[0]!.constants.get('w')!
  return { layers: [], channels, axes: [{ constant, axis, starts, block }] }
}

const TYPES = [DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16, DataType.DOUBLE, DataType.INT8, DataType.COMPLEX128]

const folder = useTempDir()

describe('bytes of an axis', () => {
  it('go where the order says, whatever the type, the axis, the run and the bits', () => {
    const cases = fc
      .record({
        dims: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 0, maxLength: 3 }),
        at: fc.nat(3),
        channels: fc.integer({ min: 2, max: 5 }),
        block: fc.integer({ min: 1, max: 3 }),
        runs: fc.integer({ min: 1, max: 2 }),
        gap: fc.nat(2),
        dataType: fc.constantFrom(...TYPES),
        seed: fc.infiniteStream(fc.nat(255)),
      })
      .chain((c) =>
        fc.record({
          c: fc.constant(c),
          order: fc.shuffledSubarray(
            Array.from({ length: c.channels }, (_, i) => i),
            { minLength: c.channels, maxLength: c.channels },
          ),
        }),
      )
    fc.assert(
      fc.property(cases, ({ c, order }) => {
        const axis = Math.min(c.at, c.dims.length)
        const run = c.channels * c.block + c.gap
        const dims = [...c.dims.slice(0, axis), c.runs * run, ...c.dims.slice(axis)]
        const starts = Array.from({ length: c.runs }, (_, i) => i * run)
        const size = elementBits(c.dataType)! / 8
        const count = dims.reduce((a, b) => a * b, 1)
        const raw = Uint8Array.from({ length: count * size }, () => c.seed.next().value!)
        const proto = holding(c.dataType, dims, raw)
        const model = inMemory(proto)
        applyPermutationsInPlace(model, [{ set: setAlong(proto, axis, c.channels, c.block, starts), order }])
        const after = bytesOf(model).get('w')!
        // Element by element: the index along the axis, taken apart into run, channel and place.
        const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1)
        for (let i = 0; i < count; i++) {
          const place = Math.floor(i / inner) % dims[axis]!
          const [r, inside] = [Math.floor(place / run), place % run]
          const isChannel = inside < c.channels * c.block
          const old = isChannel ? order[Math.floor(inside / c.block)]! * c.block + (inside % c.block) : inside
          const from = i + (r * run + old - place) * inner
          expect(after.subarray(i * size, (i + 1) * size)).toEqual(
            Buffer.from(raw.subarray(from * size, (from + 1) * size)),
          )
        }
      }),
      { numRuns: 60 },
    )
  })

  it('of typed fields, of Constant nodes and of external files are found', () => {
    const typed = makeModel({
      graph: { name: 'g', initializer: [makeTensor({ name: 'w', dataType: 1, dims: [3n], floatData: [1, 2, 3] })] },
    })
    const model = inMemory(typed)
    applyPermutationsInPlace(model, [{ set: setAlong(typed, 0, 3), order: [2, 0, 1] }])
    expect([...new Float32Array(Uint8Array.from(bytesOf(model).get('w')!).buffer)]).toEqual([3, 1, 2])
    expect(typed.graph!.initializer[0]!.floatData).toEqual([])

    const numbers = Float32Array.from({ length: 600 }, (_, i) => i)
    fs.writeFileSync(path.join(folder, 'w.bin'), new Uint8Array(numbers.buffer))
    const held = new Net('numbers')
    held.nodes.push(constantNode('w', makeTensor({ dataType: DataType.INT64, dims: [2n], int64Data: [7n, 9n] })))
    const holder = inMemory(held.model([1]))
    applyPermutationsInPlace(holder, [{ set: setAlong(holder.proto, 0, 2), order: [1, 0] }])
    const value = indexModel(holder.proto).scopes[0]!.constants.get('w')!.tensor
    expect([...new BigInt64Array(Uint8Array.from(tensorBytes(holder, value)).buffer)]).toEqual([9n, 7n])

    const net = new Net('numbers')
    net.op('MatMul', ['x', 'w'], {}, 'y')
    const proto = net.model([2, 20])
    const externalData = [{ key: 'location', value: 'w.bin' }]
    proto.graph!.initializer.push(
      makeTensor({ name: 'w', dataType: 1, dims: [20n, 30n], dataLocation: 1, externalData }),
    )
    const file = path.join(folder, 'model.onnx')
    fs.writeFileSync(file, encodeModel(proto))
    const loaded = loadModel(file)
    const order = Array.from({ length: 30 }, (_, i) => 29 - i)
    applyPermutationsInPlace(loaded, [{ set: setAlong(loaded.proto, 1, 30), order }])
    const tensor = loaded.proto.graph!.initializer[0]!
    expect(loaded.payloads.get(tensor)?.kind).toBe('memory')
    const after = new Float32Array(Uint8Array.from(tensorBytes(loaded, tensor)).buffer)
    expect([...after]).toEqual([...numbers].map((_, i) => i - (i % 30) + 29 - (i % 30)))
    expect(fs.readFileSync(path.join(folder, 'w.bin'))).toEqual(Buffer.from(numbers.buffer))
  })

  it('are not touched by what is no order', () => {
    const proto = holding(1, [3], new Uint8Array(12))
    const set = setAlong(proto, 0, 3)
    for (const order of [
      [0, 1],
      [0, 1, 1],
      [0, 1, 3],
      [0, 1, 1.5],
      [0, 1, 2, 3],
    ]) {
      expect(() => applyPermutationsInPlace(inMemory(proto), [{ set, order }])).toThrow(RangeError)
    }
    expect(() => orderAlong({ starts: [0, 2], block: 1 }, 4, [2, 1, 0])).toThrow(RangeError)
    const layer = modelLayers(attention()).layers[0]!
    expect(() => orderOfRows(set, layer, [0, 1, 2])).toThrow(RangeError)
  })
})

describe('channels of heads', () => {
  const ORDER = [3, 7, 0, 1, 6, 2, 5, 4]
  const setsOf = (proto: ModelProto) => {
    const graph = analyseMainGraph(indexModel(proto))
    return headChannels(graph, findHeads(graph).pairs, modelLayers(proto).layers)
  }
  const whole = (model: ReturnType<typeof inMemory>) => {
    for (const tensor of model.proto.graph!.initializer) tensor.rawData = new Uint8Array(tensorBytes(model, tensor))
    return model.proto
  }

  it.each<readonly [string, ModelProto, 'float' | 'double', string, readonly string[]]>([
    ['MatMul', attention({ bias: true }), 'double', 'v.weight', ['v.bias']],
    ['Gemm', attention({ linear: 'gemm', bias: true, dynamic: true }), 'double', 'v.weight', ['v.bias']],
    ['shared keys and values', attention({ heads: 6, shared: 2, bias: true }), 'double', 'v.weight', ['v.bias']],
    ['one packed projection', attention({ packed: 'split', bias: true }), 'double', 'qkv.weight', ['qkv.bias']],
    ['groupQuery', fusedAttention('groupQuery'), 'float', 'v.weight', []],
    ['packed', fusedAttention('packed'), 'float', 'all.weight', ['all.bias']],
  ])('are permuted in %s', async (_, proto, type, maker, along) => {
    const sets = setsOf(proto)
    expect(sets).toHaveLength(1)
    expect(sets[0]!.channels).toBe(8)
    expect(sets[0]!.layers.map(({ constant }) => constant.name)).toEqual([maker])
    const source = inMemory(proto)
    const copy = cloneModel(source)
    applyPermutationsInPlace(copy, [{ set: sets[0]!, order: ORDER }])
    const old = bytesOf(source)
    const changed = [...bytesOf(copy)].filter(([key, bytes]) => !bytes.equals(old.get(key)!)).map(([key]) => key)
    expect(changed.sort()).toEqual(['y.weight', maker, ...along].sort())
    const feeds = attentionFeeds(type)
    const [x, y] = [await runModel(proto, feeds), await runModel(whole(copy), feeds)].map((out) =>
      Array.from(out.get('y')!.data as Float64Array),
    ) as [number[], number[]]
    const scale = Math.max(...x.map(Math.abs))
    const limit = type === 'double' ? 1e-13 : 1e-5
    expect(Math.max(...x.map((v, i) => Math.abs(v - y[i]!))) / scale).toBeLessThan(limit)
  })

  it('stay where another node reads one of the constants', () => {
    const proto = attention({
      bias: true,
      onHeads: (parts, name) => {
        parts.add('Add', ['x', 'v.bias'], 'strange')
        return name
      },
      extraOutputs: ['strange'],
    })
    const graph = analyseMainGraph(indexModel(proto))
    expect(findHeads(graph).pairs).toHaveLength(1)
    expect(setsOf(proto)).toEqual([])
  })
})
