/** Where the bias of a norm goes in each kind of layer that reads it. The layer is the model's output. */
import { describe, expect, it } from 'vitest'
import { indexModel } from '../../src/onnx/graph.ts'
import { type AttributeValue, DataType, type ModelProto, makeValueInfo } from '../../src/onnx/proto.ts'
import { relativeError } from '../../src/rsq/checkRotation.ts'
import { rotateStreams } from '../../src/rsq/rotateStreams.ts'
import { randomHadamard } from '../../src/rsq/rotations.ts'
import type { ResidualStream } from '../../src/rsq/stream.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { found, inlined, namedStream, opened } from './namedStreams.ts'
import { feedsOf, runModel } from './streamModels.ts'
import { type FloatType, Parts } from './streamParts.ts'

interface Layer {
  readonly op: string
  readonly domain?: string
  readonly attributes?: Readonly<Record<string, AttributeValue>>
  /** Its weight: shape, axis that is summed over, and input. */
  readonly weight: readonly number[]
  readonly axis: number
  readonly inputIndex: 0 | 1
  /** Shape of its own bias. */
  readonly bias?: readonly number[]
  /** Channels before positions, or positions of all sequences on one axis. */
  readonly input?: 'channels first' | 'flat'
  /** How the weight gets there. */
  readonly through?: readonly number[]
  readonly type?: FloatType
}

function network(layer: Layer): ModelProto {
  const parts = new Parts(16, layer.type ?? 'double', 3)
  const x = parts.add('Gather', [parts.weight('embed', [9, 16]), 'input_ids'], 'x')
  let data = parts.norm('layer', x, 'finalNorm')
  if (layer.input === 'channels first') data = parts.add('Transpose', [data], 'turned', { perm: [0, 2, 1] })
  if (layer.input === 'flat') data = parts.add('Reshape', [data, parts.integers([-1, 16])], 'flat')
  let weight = parts.weight('head.weight', layer.weight)
  if (layer.through) weight = parts.add('Transpose', [weight], 'moved', { perm: layer.through })
  const inputs = layer.inputIndex === 1 ? [data, weight] : [weight, data]
  if (layer.bias) inputs.push(parts.weight('head.own', layer.bias))
  parts.add(layer.op, inputs, 'y', layer.attributes, layer.domain)
  const ids = makeValueInfo('input_ids', DataType.INT64, [undefined, undefined])
  return parts.model([ids], [makeValueInfo('y')], 'layer')
}

function turned(proto: ModelProto, { axis, inputIndex }: Layer) {
  const model = opened(proto)
  const scope = indexModel(proto).scopes[0]!
  const named = namedStream(model)
  const constant = scope.constants.get('head.weight')!
  const reader = { constant, axis, inputIndex, node: scope.producers.get('y')!, norm: named.norms[0]! }
  const stream: ResidualStream = { ...named, readers: [reader] }
  const rotation = randomHadamard(16, { seed: 2, keepsOnes: true })
  return rotateStreams(model, found(stream), new Map([[stream, rotation]]), { simplifyNorms: false })
}

describe('the bias of a norm goes', () => {
  const fused = { op: 'FusedMatMul', domain: 'com.microsoft', type: 'float' } as const
  const layers: readonly (Layer & { readonly adds: number })[] = [
    { op: 'MatMul', weight: [16, 5], axis: 0, inputIndex: 1, adds: 1 },
    { op: 'MatMul', weight: [16], axis: 0, inputIndex: 1, adds: 1 },
    { op: 'MatMul', weight: [2, 16, 5], axis: 1, inputIndex: 1, adds: 1 },
    { op: 'MatMul', weight: [2, 5, 16], axis: 2, inputIndex: 1, through: [0, 2, 1], adds: 1 },
    { op: 'MatMul', weight: [5, 16], axis: 1, inputIndex: 0, input: 'channels first', adds: 1 },
    { op: 'MatMul', weight: [2, 5, 16], axis: 2, inputIndex: 0, input: 'channels first', adds: 1 },
    { op: 'Gemm', weight: [16, 5], axis: 0, inputIndex: 1, input: 'flat', adds: 0 },
    { op: 'Gemm', weight: [16, 5], axis: 0, inputIndex: 1, input: 'flat', bias: [1, 5], adds: 0 },
    { op: 'Gemm', weight: [16, 5], axis: 0, inputIndex: 1, input: 'flat', bias: [12, 5], adds: 0 },
    { op: 'Gemm', weight: [16, 5], axis: 0, inputIndex: 1, input: 'flat', bias: [1], adds: 1 },
    { op: 'Conv', type: 'float', weight: [5, 16, 1], axis: 1, inputIndex: 1, input: 'channels first', adds: 0 },
    {
      op: 'Conv',
      type: 'float',
      weight: [5, 16, 1],
      axis: 1,
      inputIndex: 1,
      input: 'channels first',
      bias: [5],
      adds: 0,
    },
    { ...fused, weight: [5, 16], axis: 1, inputIndex: 1, attributes: { alpha: { float: 0.5 }, transB: 1 }, adds: 1 },
    {
      op: 'FusedGemm',
      domain: 'com.microsoft',
      type: 'float',
      weight: [16, 5],
      axis: 0,
      inputIndex: 1,
      input: 'flat',
      bias: [5],
      attributes: { activation: 'Relu' },
      adds: 0,
    },
    ...[[5], undefined].map((bias) => {
      const attributes = { alpha: { float: 0.5 }, beta: { float: 4 }, transB: 1 }
      return {
        op: 'Gemm',
        weight: [5, 16],
        axis: 1,
        inputIndex: 1,
        input: 'flat',
        attributes,
        adds: 0,
        ...(bias ? { bias } : {}),
      } as const
    }),
  ]
  it.each(layers)('into $op $weight, axis $axis, input $inputIndex, own bias $bias', async ({ adds, ...layer }) => {
    const proto = network(layer)
    const { model } = turned(proto, layer)
    const got = (await runModel(inlined(model), feedsOf(proto))).get('y')
    const error = relativeError((await runModel(proto)).get('y')!, got, undefined)
    expect(error).toBeLessThanOrEqual(layer.type === 'float' ? 5e-6 : 1e-12)
    expect(model.proto.graph!.node.filter(({ opType }) => opType === 'Add')).toHaveLength(adds)
  })

  it.each<Layer>([
    { op: 'Conv', weight: [5, 16, 3], axis: 1, inputIndex: 1, input: 'channels first' },
    { op: 'MatMul', weight: [5, 2, 16], axis: 2, inputIndex: 1, through: [1, 2, 0] },
    { op: 'Mystery', weight: [16, 5], axis: 0, inputIndex: 1 },
  ])('nowhere in $op $weight', (layer) => {
    expectQtoolError('model', () => turned(network(layer), layer), "'y'", /cannot be moved/)
  })
})
