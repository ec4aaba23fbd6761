/** @file One layer of attention as exporters write it, with seeded weights. All run in onnxruntime. */
import type { FeedTensor } from '../../src/data/modelInput.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { type ModelProto, makeModel, makeOpset, makeValueInfo } from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'
import { type FloatType, type LinearForm, Parts } from './streamParts.ts'

const WIDTH = 24

export interface AttentionOptions {
  readonly type?: FloatType
  readonly heads?: number
  /** Heads of keys and values; fewer than `heads` are repeated. */
  readonly shared?: number
  readonly headSize?: number
  readonly repeat?: 'expand' | 'concat' | 'tile' | 'gather'
  readonly bias?: boolean
  readonly linear?: LinearForm
  /**
   * How queries, keys and values are packed, if they are: `split` and `slice` along the last axis, `perHead` with those of
   * a head side by side, `axis` as an axis of three that Gather takes apart, `unbind` by Split and Squeeze.
   */
  readonly packed?: 'split' | 'slice' | 'perHead' | 'axis' | 'unbind'
  /** Shapes put together from those of tensors, as tracing exporters do. */
  readonly dynamic?: boolean
  /** Batch and heads on one axis. */
  readonly flat?: boolean
  /** Where a test puts something between: gets the parts and the name of a tensor, returns another name. */
  readonly onValues?: (parts: Parts, name: string) => string
  readonly onHeads?: (parts: Parts, name: string) => string
  readonly extraOutputs?: readonly string[]
}

/** x [batch, tokens, 24] → y, through one attention. */
export function attention(options: AttentionOptions = {}): ModelProto {
  const { type = 'double', heads = 3, shared = heads, headSize = 8, bias = false, linear = 'matmul' } = options
  const parts = new Parts(WIDTH, type, 5)
  const [queries, keys, values] = projections(parts, options)
  const scores = parts.add(
    'MatMul',
    [queries, parts.add('Transpose', [keys], 'kt', { perm: keyPerm(options) })],
    'scores',
  )
  const scaled = parts.add('Div', [scores, parts.scalar(Math.sqrt(headSize))], 'scaled')
  const probabilities = parts.add('Softmax', [scaled], 'probabilities', { axis: -1 })
  const given = options.onValues?.(parts, values) ?? values
  let context = parts.add('MatMul', [probabilities, given], 'context')
  context = options.onHeads?.(parts, context) ?? context
  if (options.flat) context = parts.add('Reshape', [context, parts.integers([-1, heads, 5, headSize])], 'unflat')
  const turned = parts.add('Transpose', [context], 'contextTurned', { perm: [0, 2, 1, 3] })
  const joined = parts.add('Reshape', [turned, tokenShape(parts, options, [heads * headSize])], 'joined')
  parts.linear(joined, 'y', [heads * headSize, 20], { form: linear, bias })
  if (shared > heads) throw new RangeError('fewer heads than shared ones')
  return modelOf(parts, options.extraOutputs)
}

const keyPerm = ({ flat = false }: AttentionOptions) => (flat ? [0, 2, 1] : [0, 1, 3, 2])

function modelOf(parts: Parts, extraOutputs: readonly string[] = [], opset = 17): ModelProto {
  const input = [makeValueInfo('x', parts.elementType, [undefined, undefined, WIDTH])]
  const output = ['y', ...extraOutputs].map((name) => makeValueInfo(name))
  const opsetImport = [makeOpset('', opset), makeOpset('com.microsoft', 1)]
  return makeModel({
    irVersion: 10n,
    opsetImport,
    graph: { name: 'g', node: parts.nodes, initializer: parts.tensors, input, output },
  })
}

/** [batch, tokens, ...rest]. */
function tokenShape(parts: Parts, { dynamic = false }: AttentionOptions, rest: readonly number[]): string {
  if (!dynamic) return parts.integers([0, 5, ...rest])
  const name = `shape_${rest.join('_')}_${parts.nodes.length}`
  const shape = parts.add('Shape', ['x'], `${name}/of`)
  const [batch, tokens] = [0, 1].map((at) => {
    const size = parts.add('Gather', [shape, parts.integers([at], [])], `${name}/${at}`, { axis: 0 })
    return parts.add('Unsqueeze', [size, parts.integers([0])], `${name}/${at}u`)
  })
  return parts.add('Concat', [batch!, tokens!, ...rest.map((size) => parts.integers([size]))], name, { axis: 0 })
}

function projections(parts: Parts, options: AttentionOptions): [string, string, string] {
  const { heads = 3, shared = heads, headSize = 8, bias = false, linear = 'matmul', packed } = options
  if (packed) return packedProjections(parts, options)
  const names = (['q', 'k', 'v'] as const).map((name) => {
    const count = name === 'q' ? heads : shared
    const projected = parts.linear('x', name, [WIDTH, count * headSize], { form: linear, bias })
    return toHeads(parts, options, projected, count)
  })
  return names as [string, string, string]
}

function toHeads(parts: Parts, options: AttentionOptions, projected: string, count: number): string {
  const { heads = 3, headSize = 8, repeat = 'expand', flat } = options
  const split = parts.add('Reshape', [projected, tokenShape(parts, options, [count, headSize])], `${projected}/split`)
  const turned = parts.add('Transpose', [split], `${projected}/heads`, { perm: [0, 2, 1, 3] })
  const times = heads / count
  const all = times === 1 ? turned : repeated(parts, turned, count, times, headSize, repeat)
  return flat ? parts.add('Reshape', [all, parts.integers([-1, 5, headSize])], `${projected}/flat`) : all
}

function repeated(
  parts: Parts,
  from: string,
  count: number,
  times: number,
  headSize: number,
  repeat: 'expand' | 'concat' | 'tile' | 'gather',
): string {
  if (repeat === 'concat') return parts.add('Concat', Array<string>(times).fill(from), `${from}/again`, { axis: 1 })
  if (repeat === 'tile') return parts.add('Tile', [from, parts.integers([1, times, 1, 1])], `${from}/again`)
  if (repeat === 'gather') {
    const heads = Array.from({ length: count * times }, (_, head) => Math.floor(head / times))
    return parts.add('Gather', [from, parts.integers(heads)], `${from}/again`, { axis: 1 })
  }
  const wide = parts.add('Unsqueeze', [from, parts.integers([2])], `${from}/wide`)
  const expanded = parts.add('Expand', [wide, parts.integers([1, count, times, 5, headSize])], `${from}/expanded`)
  return parts.add('Reshape', [expanded, parts.integers([0, count * times, 5, headSize])], `${from}/again`)
}

function packedProjections(parts: Parts, options: AttentionOptions): [string, string, string] {
  const { heads = 3, headSize = 8, bias = false, linear = 'matmul', packed } = options
  const size = heads * headSize
  const all = parts.linear('x', 'qkv', [WIDTH, 3 * size], { form: linear, bias })
  const reshape = (rest: readonly number[]) => parts.add('Reshape', [all, tokenShape(parts, options, rest)], 'qkv/five')
  const turned = (name: string) => parts.add('Transpose', [name], `${name}/heads`, { perm: [0, 2, 1, 3] })
  if (packed === 'slice') {
    const parts3 = [0, 1, 2].map((at) => {
      const range = [parts.integers([at * size]), parts.integers([at === 2 ? 2 ** 40 : (at + 1) * size])]
      const part = parts.add('Slice', [all, ...range, parts.integers([2])], `part${at}`)
      return toHeads(parts, options, part, heads)
    })
    return parts3 as [string, string, string]
  }
  if (packed === 'split' || packed === 'perHead') {
    const from = packed === 'split' ? all : reshape([heads, 3 * headSize])
    const one = packed === 'split' ? size : headSize
    const first = parts.add('Split', [from, parts.integers([one, one, one])], 'part0', { axis: -1 })
    parts.nodes.at(-1)!.output.push('part1', 'part2')
    const names = [first, 'part1', 'part2']
    return names.map((name) => (packed === 'split' ? toHeads(parts, options, name, heads) : turned(name))) as [
      string,
      string,
      string,
    ]
  }
  // [batch, tokens, 3, heads, size] → [3, batch, heads, tokens, size]
  const five = parts.add('Transpose', [reshape([3, heads, headSize])], 'qkv/turned', { perm: [2, 0, 3, 1, 4] })
  if (packed === 'axis') {
    return [0, 1, 2].map((at) => parts.add('Gather', [five, parts.integers([at], [])], `part${at}`, { axis: 0 })) as [
      string,
      string,
      string,
    ]
  }
  parts.add('Split', [five, parts.integers([1, 1, 1])], 'part0', { axis: 0 })
  parts.nodes.at(-1)!.output.push('part1', 'part2')
  return ['part0', 'part1', 'part2'].map((name) =>
    parts.add('Squeeze', [name, parts.integers([0])], `${name}/alone`),
  ) as [string, string, string]
}

export type FusedForm = 'multiHead' | 'groupQuery' | 'groupQueryPacked' | 'packed' | 'standard' | 'standardFour'

/** The same with a fused operator, 4 heads of 8, keys and values 2 where groups are possible. float32. */
export function fusedAttention(form: FusedForm, { bias = false, cache = false } = {}): ModelProto {
  const parts = new Parts(WIDTH, 'float', 5)
  const [heads, size] = [4, 8]
  const shared = form.startsWith('groupQuery') || form === 'standard' ? 2 : heads
  const linear = (name: string, count: number) => parts.linear('x', name, [WIDTH, count * size])
  const contrib = (op: string, inputs: string[], attributes: Record<string, number>) => {
    parts.add(op, inputs, 'context', attributes, 'com.microsoft')
  }
  const separate = () => [linear('q', heads), linear('k', shared), linear('v', shared)]
  const groups = { num_heads: heads, kv_num_heads: shared }
  // Last position of each sequence, and the length of all.
  const int32 = (name: string) => parts.add('Cast', [name], `${name}/int32`, { to: 6 })
  const lengths = () => [int32(parts.integers([4, 4])), int32(parts.integers([5], []))]
  if (form === 'multiHead') {
    contrib('MultiHeadAttention', [...separate(), ...(bias ? [parts.weight('all.bias', [96])] : [])], {
      num_heads: heads,
    })
  } else if (form === 'groupQuery') contrib('GroupQueryAttention', [...separate(), '', '', ...lengths()], groups)
  else if (form === 'groupQueryPacked') {
    const qkv = linear('qkv', heads + 2 * shared)
    contrib('GroupQueryAttention', [qkv, '', '', '', '', ...lengths()], groups)
  } else if (form === 'packed') {
    const weights = [parts.weight('all.weight', [WIDTH, 96]), parts.weight('all.bias', [96])]
    contrib('Attention', ['x', ...weights], { num_heads: heads })
  } else if (form === 'standard') {
    parts.add('Attention', separate(), 'context', { q_num_heads: heads, kv_num_heads: shared })
  } else {
    const four = separate().map((name) => toHeads(parts, { heads, headSize: size }, name, heads))
    const context = parts.add('Attention', four, 'context4')
    const turned = parts.add('Transpose', [context], 'turned', { perm: [0, 2, 1, 3] })
    parts.add('Reshape', [turned, parts.integers([0, 0, heads * size])], 'context')
  }
  if (cache || form.startsWith('groupQuery')) {
    parts.nodes.find(({ opType }) => opType.endsWith('Attention'))!.output.push('presentKey', 'presentValue')
  }
  parts.linear('context', 'y', [heads * size, 20], { bias })
  return modelOf(parts, cache ? ['presentKey', 'presentValue'] : [], form.startsWith('standard') ? 23 : 17)
}

/** A model without large payloads. */
export function inMemory(proto: ModelProto): OnnxModel {
  return { path: 'model.onnx', proto, payloads: new Map(), files: [] }
}

/** x [2, 5, 24], seeded normal numbers. */
export function attentionFeeds(type: FloatType): Map<string, FeedTensor> {
  const random = makeRandom(9)
  const values = Array.from({ length: 2 * 5 * WIDTH }, () => random.normal())
  const data = type === 'double' ? Float64Array.from(values) : Float32Array.from(values)
  return new Map([['x', { type, dims: [2, 5, WIDTH], data }]])
}
