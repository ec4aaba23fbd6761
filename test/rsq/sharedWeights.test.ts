/** Weights that more than one layer reads: ties, shared gains, shared biases, a layer that reads and writes. */
import { describe, expect, it } from 'vitest'
import { indexModel } from '../../src/onnx/graph.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { DataType, type ModelProto, makeNode, makeTensor, makeValueInfo } from '../../src/onnx/proto.ts'
import { relativeError } from '../../src/rsq/checkRotation.ts'
import { readVectors } from '../../src/rsq/constantVectors.ts'
import { rotateStreams } from '../../src/rsq/rotateStreams.ts'
import type { Rotation } from '../../src/rsq/rotation.ts'
import { matrixOf, randomHadamard } from '../../src/rsq/rotations.ts'
import type { ResidualStream } from '../../src/rsq/stream.ts'
import { bridgeMatrix } from '../../src/rsq/tiedWeights.ts'
import { found, inlined, namedStream, opened } from './namedStreams.ts'
import { feedsOf, runModel, transformer } from './streamModels.ts'
import { Parts } from './streamParts.ts'

const KEEPING = randomHadamard(16, { seed: 5, keepsOnes: true })
const ANY = randomHadamard(16, { seed: 6 })

async function turned(
  proto: ModelProto,
  rotation: Rotation | undefined,
  simplifyNorms = false,
  stream: ResidualStream = namedStream(opened(proto)),
) {
  const result = rotateStreams(opened(proto), found(stream), new Map([[stream, rotation]]), { simplifyNorms })
  const wanted = await runModel(proto)
  const got = await runModel(inlined(result.model), feedsOf(proto))
  const error = Math.max(...[...wanted].map(([name, tensor]) => relativeError(tensor, got.get(name), undefined)))
  return { ...result, error }
}

const names = ({ proto }: OnnxModel) => proto.graph!.initializer.map(({ name }) => name)
const operators = ({ proto }: OnnxModel) => proto.graph!.node.map(({ opType }) => opType)

/** Give every node that reads one constant another one; the former goes. */
function share(proto: ModelProto, from: string, to: string): void {
  const graph = proto.graph!
  for (const node of graph.node) node.input = node.input.map((name) => (name === from ? to : name))
  graph.initializer = graph.initializer.filter(({ name }) => name !== from)
}

function fill(proto: ModelProto, name: string, value: number): void {
  const tensor = proto.graph!.initializer.find((each) => each.name === name)!
  tensor.rawData = new Uint8Array(new Float64Array(tensor.rawData.length / 8).fill(value).buffer)
}

describe('a tied head', () => {
  const heads = [
    { norm: 'rmsDiv', head: 'transpose' },
    { norm: 'layer', head: 'gemm' },
    { norm: 'layer', head: 'transpose' },
  ] as const
  it.each(heads)('keeps its tie by a small matrix: %o', async (options) => {
    const proto = transformer({ ...options, type: 'double', vocab: 40 })
    const { model, copies, streams, error } = await turned(proto, KEEPING)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(copies).toEqual([])
    expect(streams[0]!.ties).toMatchObject([{ decision: 'bridge', bytes: 16 * 16 * 8 }])
    expect(names(model)).toContain('logits/bridge/matrix')
    const readers = indexModel(model.proto).scopes[0]!.readers.get('embed')!
    expect(readers.map(({ node }) => node.opType)).toEqual(['Gather', options.head === 'gemm' ? 'Gemm' : 'Transpose'])
  })

  it.each(heads)('gets a copy where that is smaller: %o', async (options) => {
    const proto = transformer({ ...options, type: 'double', vocab: 11 })
    const { model, copies, streams, error } = await turned(proto, KEEPING)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(copies).toEqual([{ constant: 'embed', copy: 'embed/rotated', bytes: 11 * 16 * 8, nodes: ['logits'] }])
    expect(streams[0]!.ties).toMatchObject([{ decision: 'copy', bytes: 11 * 16 * 8 }])
    expect(names(model)).not.toContain('logits/bridge/matrix')
  })

  it('gets a copy where the table has to lose its mean', async () => {
    const proto = transformer({ norm: 'layer', head: 'gemm', type: 'double', vocab: 40 })
    const { copies, streams, error } = await turned(proto, ANY, true)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(copies).toHaveLength(1)
    expect(streams[0]).toMatchObject({ simplifiedNorms: 5, ties: [{ decision: 'copy' }] })
    // With a rotation that allows for it the tie is worth more than a cheaper norm.
    const kept = await turned(proto, KEEPING, true)
    expect(kept.error).toBeLessThanOrEqual(1e-12)
    expect(kept.streams[0]).toMatchObject({ simplifiedNorms: 0, ties: [{ decision: 'bridge' }] })
  })

  it.each([['rmsDiv', ANY, false] as const, ['layer', KEEPING, false] as const, ['layer', ANY, true] as const])(
    'needs neither behind one gain for all channels: %s',
    async (norm, rotation, simplify) => {
      const proto = transformer({ norm, head: 'transpose', type: 'double', vocab: 40 })
      fill(proto, 'finalNorm.gain', 1.75)
      const { model, copies, streams, error } = await turned(proto, rotation, simplify)
      expect(error).toBeLessThanOrEqual(1e-12)
      expect([copies, streams[0]!.ties]).toEqual([[], []])
      expect(names(model)).toContain('finalNorm.gain')
    },
  )

  it('keeps the gain in the norm where nothing is rotated', async () => {
    const proto = transformer({ norm: 'layer', head: 'gemm', type: 'double', vocab: 40 })
    const { model, copies, streams, error } = await turned(proto, undefined)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(copies).toEqual([])
    expect(streams[0]).toMatchObject({ fusedNorms: 4, ties: [{ decision: 'leave', bytes: 0 }] })
    expect(names(model)).toContain('finalNorm.gain')
  })

  it('has the matrix Qᵀ·diag(γ)·Q', () => {
    const q = matrixOf(ANY)
    const gain = Float64Array.from({ length: 16 }, (_, i) => 1 + Math.sin(i))
    bridgeMatrix(gain, ANY).forEach((value, at) => {
      const [i, j] = [Math.floor(at / 16), at % 16]
      const wanted = gain.reduce((sum, g, k) => sum + q[k * 16 + i]! * g * q[k * 16 + j]!, 0)
      expect(value).toBeCloseTo(wanted, 13)
    })
  })
})

describe('constants that others read', () => {
  it('of two norms and an output: the gain stays for the output', async () => {
    const proto = transformer({ norm: 'layer', type: 'double' })
    share(proto, 'b1/attnNorm.gain', 'b0/attnNorm.gain')
    proto.graph!.node.push(makeNode('Neg', ['b0/attnNorm.gain'], ['extra'], { name: 'extra' }))
    proto.graph!.output.push(makeValueInfo('extra'))
    const { model, error } = await turned(proto, KEEPING)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(names(model).filter((name) => name.endsWith('.gain'))).toEqual(['b0/attnNorm.gain'])
  })

  it('a weight behind norms with different gains is copied for one', async () => {
    const proto = transformer({ norm: 'rmsDiv', type: 'double' })
    share(proto, 'b1/q.weight', 'b0/q.weight')
    const { copies, error } = await turned(proto, ANY)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(copies).toEqual([
      { constant: 'b0/q.weight', copy: 'b0/q.weight/rotated', bytes: 16 * 16 * 8, nodes: ['b1/q'] },
    ])
  })

  it('a weight behind norms with equal gains stays one', async () => {
    const proto = transformer({ norm: 'rmsDiv', type: 'double' })
    share(proto, 'b1/q.weight', 'b0/q.weight')
    share(proto, 'b1/attnNorm.gain', 'b0/attnNorm.gain')
    const { copies, error } = await turned(proto, ANY)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(copies).toEqual([])
  })

  it('a bias of layers on and off the stream', async () => {
    const proto = transformer({ norm: 'layer', type: 'double', bias: true, linear: 'gemm' })
    for (const other of ['b0/k', 'b0/v', 'b0/o', 'b1/o', 'b1/q']) share(proto, `${other}.bias`, 'b0/q.bias')
    proto.graph!.node.push(makeNode('Neg', ['b0/q.bias'], ['extra'], { name: 'extra' }))
    proto.graph!.output.push(makeValueInfo('extra'))
    const { copies, error } = await turned(proto, KEEPING)
    expect(error).toBeLessThanOrEqual(1e-12)
    const nodes = copies.map((copy) => copy.nodes.map((name) => name.replace('/gemm', '')))
    expect(nodes.map((list) => list.join()).sort()).toEqual(['b0/k', 'b0/o,b1/o', 'b0/q', 'b0/v', 'b1/q'])
  })

  it('in Constant nodes become initializers', async () => {
    const proto = transformer({ norm: 'layer', type: 'double' })
    const graph = proto.graph!
    for (const name of ['b0/q.weight', 'b0/attnNorm.gain']) {
      const tensor = graph.initializer.find((each) => each.name === name)!
      graph.initializer = graph.initializer.filter((each) => each !== tensor)
      graph.node.unshift(
        makeNode('Constant', [], [name], { name, attributes: { value: makeTensor({ ...tensor, name: '' }) } }),
      )
    }
    const { model, error } = await turned(proto, KEEPING)
    expect(error).toBeLessThanOrEqual(1e-12)
    expect(operators(model)).not.toContain('Constant')
    expect(names(model)).toContain('b0/q.weight')
  })
})

/** x = E[ids] + norm(E[ids])·W, y = norm(x)·V, with or without a bias on W. */
function matrixBranch(bias: boolean): ModelProto {
  const parts = new Parts(16, 'double', 2)
  const x = parts.add('Gather', [parts.weight('embed', [9, 16]), 'input_ids'], 'x')
  const branch = parts.linear(parts.norm('layer', x, 'b0/attnNorm'), 'b0/q', [16, 16], { bias })
  const sum = parts.add('Add', [x, branch], 'sum')
  parts.add('MatMul', [parts.norm('layer', sum, 'finalNorm'), parts.weight('head.weight', [16, 5])], 'logits')
  const ids = makeValueInfo('input_ids', DataType.INT64, [undefined, undefined])
  return parts.model([ids], [makeValueInfo('logits')], 'layer')
}

describe('a layer that reads the stream and writes to it', () => {
  it.each([true, false])('is turned on both sides, bias %s', async (bias) => {
    const proto = matrixBranch(bias)
    const stream = namedStream(opened(proto))
    const reader = stream.readers.find(({ constant }) => constant.name === 'b0/q.weight')!
    const writers = [...stream.writers, { ...reader, axis: 1 }]
    const added = reader.constant.scope.readers.get('b0/q.bias')?.[0]
    if (added) writers.push({ ...added, constant: reader.constant.scope.constants.get('b0/q.bias')!, axis: 0 })
    for (const [rotation, simplify] of [
      [KEEPING, false],
      [ANY, true],
      [undefined, false],
    ] as const) {
      const { model, error, copies } = await turned(proto, rotation, simplify, { ...stream, writers })
      expect(error).toBeLessThanOrEqual(1e-12)
      expect(copies).toEqual([])
      const weight = model.proto.graph!.initializer.find(({ name }) => name === 'b0/q.weight')!
      expect(readVectors(model, weight, 0)).not.toEqual(readVectors(opened(proto), reader.constant.tensor, 0))
    }
  })
})
