/** @file Small networks of attention and feed-forward layers, and the importance of their tokens. */
import { findBlocks } from '../../src/calibration/blocks.ts'
import type { Walk } from '../../src/calibration/walk.ts'
import type { Dataset } from '../../src/data/dataset.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import {
  type AttributeValue,
  DataType,
  type ModelProto,
  makeNode,
  makeOpset,
  makeTensor,
} from '../../src/onnx/proto.ts'
import { collectImportance, type ImportanceOptions } from '../../src/rsq/collectScores.ts'
import { Net, opened, WIDTH } from '../analyze/residualModels.ts'
import { walkThrough } from '../calibration/walks.ts'
import { normalTensor } from '../eval/models.ts'

export const SAMPLES = 5
export const TOKENS = 6
export const x = normalTensor([SAMPLES, TOKENS, WIDTH], 5)
export const PLAIN = { rMin: 0.01, exponent: 1, lengthCorrection: 'none', quantile: 1 } as const
export const range = (count: number) => Array.from({ length: count }, (_, i) => i)

type Kind = 'plain' | 'MultiHeadAttention' | 'GroupQueryAttention' | 'Attention of axis 2' | 'Attention of four axes'

export interface Shape {
  readonly kind?: Kind
  readonly heads?: number
  readonly keyHeads?: number
  readonly causal?: boolean
  readonly bias?: boolean
  /** Queries of zeros: all scores are equal. */
  readonly uniform?: boolean
  readonly attributes?: Record<string, AttributeValue>
}

/** Self-attention with heads, as exporters write it or fused; no norm, so that it has a closed form. */
export function attention(net: Net, from: string, at: string, shape: Shape = {}): string {
  const { kind = 'plain', heads = 2, keyHeads = heads, causal = true, bias = false, uniform = false } = shape
  const size = WIDTH / heads
  const ints = (name: string, values: readonly number[]) => {
    const int64Data = values.map(BigInt)
    net.initializer.push(makeTensor({ name, dims: [BigInt(values.length)], dataType: DataType.INT64, int64Data }))
    return name
  }
  const linear = (name: string, outputs: number) => {
    const zero = uniform && name === 'q' ? () => 0 : undefined
    const weight = net.weight(`${at}/${name}.weight`, [WIDTH, outputs], zero)
    return net.add('MatMul', [from, weight], `${at}/${name}`)
  }
  const [q, k, v] = [linear('q', WIDTH), linear('k', keyHeads * size), linear('v', keyHeads * size)]
  const split = (name: string, count: number, perm: readonly number[]) => {
    const parts = net.add('Reshape', [name, ints(`${name}.shape`, [0, 0, count, size])], `${name}.heads`)
    return net.add('Transpose', [parts], `${name}.turned`, { perm: [...perm] })
  }
  const fused = (op: string, domain: string, inputs: readonly string[], attributes: Record<string, AttributeValue>) => {
    const all = { ...attributes, ...shape.attributes }
    const made = makeNode(op, [...inputs], [`${at}/fused`], { name: `${at}/fused`, domain, attributes: all })
    net.node.push(made)
    return `${at}/fused`
  }
  const merged = (mixed: string) => {
    const back = net.add('Transpose', [mixed], `${at}/back`, { perm: [0, 2, 1, 3] })
    return net.add('Reshape', [back, ints(`${at}/back.shape`, [0, 0, WIDTH])], `${at}/mixed`)
  }
  const o = (mixed: string) => net.linear(mixed, `${at}/o`)
  if (kind === 'MultiHeadAttention') {
    const added = bias ? [net.weight(`${at}/bias`, [3 * WIDTH])] : []
    return o(fused(kind, 'com.microsoft', [q, k, v, ...added], { num_heads: heads, unidirectional: causal ? 1 : 0 }))
  }
  if (kind === 'GroupQueryAttention') {
    net.initializer.push(
      ...['seqlens', 'total'].map((name) =>
        makeTensor({
          name: `${at}/${name}`,
          dims: name === 'total' ? [] : [1n],
          dataType: DataType.INT32,
          int32Data: [name === 'total' ? TOKENS : TOKENS - 1],
        }),
      ),
    )
    const inputs = [q, k, v, '', '', `${at}/seqlens`, `${at}/total`]
    return o(fused(kind, 'com.microsoft', inputs, { num_heads: heads, kv_num_heads: keyHeads }))
  }
  if (kind === 'Attention of axis 2') {
    return o(
      fused('Attention', '', [q, k, v], { q_num_heads: heads, kv_num_heads: keyHeads, is_causal: causal ? 1 : 0 }),
    )
  }
  const parts = [split(q, heads, [0, 2, 1, 3]), split(k, keyHeads, [0, 2, 1, 3]), split(v, keyHeads, [0, 2, 1, 3])]
  if (kind === 'Attention of four axes') return o(merged(fused('Attention', '', parts, { is_causal: causal ? 1 : 0 })))
  const keys = net.add('Transpose', [parts[1]!], `${at}/kT`, { perm: [0, 1, 3, 2] })
  const scores = net.add('MatMul', [parts[0]!, keys], `${at}/scores`)
  const scaled = net.add('Mul', [scores, net.weight(`${at}/scale`, [], () => 1 / Math.sqrt(size))], `${at}/scaled`)
  const later = (i: number) => i % TOKENS > Math.floor(i / TOKENS)
  const whole = net.weight(`${at}/whole`, [TOKENS, TOKENS], (i) => (causal && later(i) ? -1e9 : 0))
  const length = net.add('Gather', [net.add('Shape', [from], `${at}/dims`), ints(`${at}/one`, [1])], `${at}/length`)
  const ends = net.add('Concat', [length, length], `${at}/ends`, { axis: 0 })
  const mask = net.add('Slice', [whole, ints(`${at}/starts`, [0, 0]), ends], `${at}/mask`)
  const shares = net.add('Softmax', [net.add('Add', [scaled, mask], `${at}/masked`)], `${at}/shares`, { axis: -1 })
  return o(merged(net.add('MatMul', [shares, parts[2]!], `${at}/mix`)))
}

/** x + attention, and so on. */
export function attending(shape: Shape, layers = 1, opset = 17): ModelProto {
  const net = new Net()
  let stream = 'x'
  for (const i of range(layers)) {
    stream = net.add('Add', [stream, attention(net, stream, `l${i}/attn`, shape)], `l${i}/sum`)
    stream = net.add('Add', [stream, net.feedForward(stream, `l${i}/mlp`)], `l${i}/out`)
  }
  const proto = net.model([net.linear(stream, 'head')])
  return { ...proto, opsetImport: [makeOpset('', opset), makeOpset('com.microsoft', 1)] }
}

export interface Run {
  readonly fit?: readonly number[]
  readonly batchSize?: number
}

export function walkOf(proto: ModelProto, data: Dataset, { fit = [...data.order], batchSize = 2 }: Run = {}): Walk {
  const held = [...data.order].filter((sample) => !fit.includes(sample))
  return walkThrough(proto, { fit: data.subset(fit), held: data.subset(held), batchSize })
}

export const blocksOf = (proto: ModelProto) => findBlocks(opened(proto).graph, opened(proto).found.layers)

export async function collected(proto: ModelProto, data: Dataset, options: Partial<ImportanceOptions>, run: Run = {}) {
  const walk = walkOf(proto, data, run)
  try {
    return await collectImportance(walk, blocksOf(proto), { ...PLAIN, strategy: 'attention', ...options }, {})
  } finally {
    walk.close()
  }
}

export const rowsOf = ({ data }: FeedTensor, sample: number, width: number) =>
  range(TOKENS).map((t) => range(width).map((k) => Number(data[(sample * TOKENS + t) * width + k])))

export const mask: readonly number[] = Array.from({ length: SAMPLES * TOKENS }, (_, i) =>
  i % TOKENS < 2 + (i % 4) || i < TOKENS ? 1 : 0,
)
export const padding: FeedTensor = { type: 'int64', dims: [SAMPLES, TOKENS], data: BigInt64Array.from(mask, BigInt) }

/** The stored numbers of a constant. */
export const stored = (proto: ModelProto, name: string) => {
  const { rawData } = proto.graph!.initializer.find((tensor) => tensor.name === name)!
  return new Float32Array(new Uint8Array(rawData).buffer)
}
