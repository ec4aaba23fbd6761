/**
 * @file Small transformers as exporters write them, with seeded weights. All run in onnxruntime.
 *
 * Weights are called by their layers: `b0/q.weight`, `b0/attnNorm.gain`, `finalNorm.beta`, `head.weight`, `embed`,
 * `positions`, `cls`, `patch.weight`. Linear weights are [in, out] for MatMul, [out, in] for Gemm.
 */
import { DataType, type ModelProto, makeNode, makeValueInfo } from '../../src/onnx/proto.ts'
import { type FloatType, type LinearForm, type NormForm, Parts } from './streamParts.ts'

export interface StreamModelOptions {
  /** Default `layer`. */
  readonly norm?: NormForm
  /** Where norms stand: before each branch (default), on the stream after each sum, or before and after each branch. */
  readonly arrangement?: 'pre' | 'post' | 'sandwich'
  readonly linear?: LinearForm
  /** Biases of all linear layers of the blocks; default false. Skip norms take those that are added to the stream. */
  readonly bias?: boolean
  /** The head's weight: its own, or the embedding through a Transpose or in a Gemm with transB. */
  readonly head?: 'own' | 'transpose' | 'gemm'
  /** A table of positions, cut to the length by a Slice and added. */
  readonly positions?: boolean
  /** `tokens`: input_ids [batch, length] int64. `patches`: pixels [batch, 3, 8, 8], four patches and a class token. */
  readonly front?: 'tokens' | 'patches'
  /** `fused`: com.microsoft Attention with a packed weight `b0/qkv.weight`; float, MatMul only, kvHeads = heads. */
  readonly attention?: 'plain' | 'fused'
  readonly blocks?: number
  readonly width?: number
  readonly heads?: number
  readonly kvHeads?: number
  readonly hidden?: number
  readonly vocab?: number
  readonly type?: FloatType
  readonly seed?: number
}

type Settings = Required<StreamModelOptions>

function settings(options: StreamModelOptions): Settings {
  return {
    norm: 'layer',
    arrangement: 'pre',
    linear: 'matmul',
    bias: false,
    head: 'own',
    positions: false,
    front: 'tokens',
    attention: 'plain',
    blocks: 2,
    width: 16,
    heads: 4,
    kvHeads: options.heads ?? 4,
    hidden: 24,
    vocab: 11,
    type: 'float',
    seed: 1,
    ...options,
  }
}

/** The stream, and what is still to be added to it. */
interface Flow {
  readonly x: string
  readonly branch?: string
  readonly bias?: string
}

class Network {
  readonly parts: Parts
  readonly s: Settings

  constructor(s: Settings) {
    this.s = s
    this.parts = new Parts(s.width, s.type, s.seed)
  }

  tokens(ids: string, path = ''): Flow {
    const { parts, s } = this
    const embed = parts.weight('embed', [s.vocab, s.width], { scale: 1 })
    const x = parts.add('Gather', [embed, ids], `${path}embedded`, { axis: 0 })
    if (!s.positions) return { x }
    const table = parts.weight('positions', [1, 32, s.width], { scale: 0.5 })
    const shape = parts.add('Shape', [ids], `${path}idsShape`)
    const length = parts.add('Gather', [shape, parts.integers([1])], `${path}length`)
    const slice = [table, parts.integers([0]), length, parts.integers([1])]
    return { x: parts.add('Add', [x, parts.add('Slice', slice, `${path}cut`)], `${path}placed`) }
  }

  patches(): Flow {
    const { parts, s } = this
    const weight = parts.weight('patch.weight', [s.width, 3, 4, 4])
    const conv = parts.add('Conv', ['pixels', weight, parts.weight('patch.bias', [s.width])], 'patches', {
      strides: [4, 4],
      kernel_shape: [4, 4],
    })
    const flat = parts.add('Reshape', [conv, parts.integers([0, s.width, -1])], 'flatPatches')
    const rows = parts.add('Transpose', [flat], 'patchRows', { perm: [0, 2, 1] })
    const shape = parts.add('Shape', [rows], 'rowsShape')
    const batch = parts.add('Gather', [shape, parts.integers([0])], 'batch')
    const many = parts.add('Concat', [batch, parts.integers([1]), parts.integers([s.width])], 'clsShape', { axis: 0 })
    const cls = parts.add('Expand', [parts.weight('cls', [1, 1, s.width]), many], 'clsRows')
    const x = parts.add('Concat', [cls, rows], 'withClass', { axis: 1 })
    return { x: parts.add('Add', [x, parts.weight('positions', [1, 5, s.width])], 'placed') }
  }

  /** Adds what is pending, and norms. */
  norm(flow: Flow, to: string): { readonly flow: Flow; readonly normed: string } {
    const { parts, s } = this
    const isSkip = s.norm === 'skip' || s.norm === 'skipSimplified'
    if (!isSkip || flow.branch === undefined) {
      const summed = this.sum(flow, `${to}/sum`)
      return { flow: summed, normed: parts.norm(s.norm, summed.x, to) }
    }
    const inputs = [flow.x, flow.branch, parts.gain(to)]
    if (s.norm === 'skip') inputs.push(parts.beta(to))
    if (flow.bias) inputs.push(flow.bias)
    const op = s.norm === 'skip' ? 'SkipLayerNormalization' : 'SkipSimplifiedLayerNormalization'
    const attributes = { epsilon: { float: 1e-5 } }
    const outputs = to === 'finalNorm' ? [to] : [to, '', '', `${to}/sum`]
    parts.nodes.push(makeNode(op, inputs, outputs, { name: to, domain: 'com.microsoft', attributes }))
    return { flow: { x: `${to}/sum` }, normed: to }
  }

  sum({ x, branch }: Flow, to: string): Flow {
    return branch === undefined ? { x } : { x: this.parts.add('Add', [x, branch], to) }
  }

  #linear(from: string, to: string, dims: readonly [number, number]): string {
    return this.parts.linear(from, to, dims, { form: this.s.linear, bias: this.s.bias })
  }

  /** The layer at the end of a branch. */
  #write(flow: Flow, from: string, to: string, inputs: number): Flow {
    const { parts, s } = this
    const isSkip = s.norm === 'skip' || s.norm === 'skipSimplified'
    if (isSkip && s.bias && s.linear === 'matmul' && s.arrangement === 'pre') {
      const branch = parts.linear(from, to, [inputs, s.width])
      return { x: flow.x, branch, bias: parts.weight(`${to}.bias`, [s.width]) }
    }
    return { x: flow.x, branch: this.#linear(from, to, [inputs, s.width]) }
  }

  /** @param memory what keys and values are made of, where not of `from`. */
  attention(from: string, path: string, memory = from): string {
    const { parts, s } = this
    const size = s.width / s.heads
    if (s.attention === 'fused') {
      const packed = parts.weight(`${path}/qkv.weight`, [s.width, 3 * s.width], { scale: 1 / Math.sqrt(s.width) })
      const bias = parts.weight(`${path}/qkv.bias`, [3 * s.width])
      return parts.add('Attention', [from, packed, bias], `${path}/mixed`, { num_heads: s.heads }, 'com.microsoft')
    }
    const part = (name: 'q' | 'k' | 'v', count: number, perm: readonly number[]) => {
      const made = this.#linear(name === 'q' ? from : memory, `${path}/${name}`, [s.width, count * size])
      const cut = parts.add('Reshape', [made, parts.integers([0, 0, count, size])], `${path}/${name}Cut`)
      const turned = parts.add('Transpose', [cut], `${path}/${name}Heads`, { perm })
      if (count === s.heads) return turned
      const shared = Array.from({ length: s.heads }, (_, head) => Math.floor((head * count) / s.heads))
      return parts.add('Gather', [turned, parts.integers(shared)], `${path}/${name}All`, { axis: 1 })
    }
    const q = part('q', s.heads, [0, 2, 1, 3])
    const k = part('k', s.kvHeads, [0, 2, 3, 1])
    const v = part('v', s.kvHeads, [0, 2, 1, 3])
    const scores = parts.add('Mul', [parts.add('MatMul', [q, k], `${path}/raw`), parts.scalar(0.5)], `${path}/scores`)
    const shares = parts.add('Softmax', [scores], `${path}/softmax`, { axis: -1 })
    const mixed = parts.add('MatMul', [shares, v], `${path}/mixedHeads`)
    const back = parts.add('Transpose', [mixed], `${path}/mixedBack`, { perm: [0, 2, 1, 3] })
    return parts.add('Reshape', [back, parts.integers([0, 0, s.width])], `${path}/mixed`)
  }

  /** up · silu(gate). */
  feedForward(from: string, path: string): string {
    const { parts, s } = this
    const gate = this.#linear(from, `${path}/gate`, [s.width, s.hidden])
    const up = this.#linear(from, `${path}/up`, [s.width, s.hidden])
    const sigmoid = parts.add('Sigmoid', [gate], `${path}/sigmoid`)
    return parts.add('Mul', [parts.add('Mul', [gate, sigmoid], `${path}/silu`), up], `${path}/hidden`)
  }

  /** A branch with its norms: `make` computes from the normed stream what `layer` writes. */
  branch(flow: Flow, path: string, norm: string, layer: string, inputs: number, make: (from: string) => string): Flow {
    const { parts, s } = this
    if (s.arrangement === 'post') {
      const written = this.#write(flow, make(flow.x), `${path}/${layer}`, inputs)
      const { x } = this.sum(written, `${path}/${norm}/sum`)
      return { x: parts.norm(s.norm, x, `${path}/${norm}`) }
    }
    const before = this.norm(flow, `${path}/${norm}`)
    const written = this.#write(before.flow, make(before.normed), `${path}/${layer}`, inputs)
    if (s.arrangement === 'pre') return written
    return { x: written.x, branch: parts.norm(s.norm, written.branch!, `${path}/${norm}After`) }
  }

  /** @param memory of an encoder: each block attends to it as well. */
  blocks(start: Flow, path = '', memory?: string): Flow {
    const { width, hidden } = this.s
    let flow = start
    for (let i = 0; i < this.s.blocks; i++) {
      const block = `${path}b${i}`
      flow = this.branch(flow, block, 'attnNorm', 'o', width, (from) => this.attention(from, block))
      if (memory) {
        const cross = (from: string) => this.attention(from, `${block}/cross`, memory)
        flow = this.branch(flow, block, 'crossNorm', 'cross/o', width, cross)
      }
      flow = this.branch(flow, block, 'mlpNorm', 'down', hidden, (from) => this.feedForward(from, block))
    }
    return flow
  }

  head(flow: Flow, take: (normed: string) => string = (normed) => normed): void {
    const { parts, s } = this
    const normed = take(s.arrangement === 'post' ? this.sum(flow, 'last').x : this.norm(flow, 'finalNorm').normed)
    if (s.head === 'own') {
      const weight = parts.weight('head.weight', [s.width, s.vocab])
      parts.add('MatMul', [normed, weight], 'logits')
    } else if (s.head === 'transpose') {
      parts.add('MatMul', [normed, parts.add('Transpose', ['embed'], 'embedT', { perm: [1, 0] })], 'logits')
    } else {
      const flat = parts.add('Reshape', [normed, parts.integers([-1, s.width])], 'flatFinal')
      parts.add('Gemm', [flat, 'embed'], 'logits', { transB: 1 })
    }
  }
}

const ids = (name: string) => makeValueInfo(name, DataType.INT64, [undefined, undefined])

/** A transformer: front, blocks of attention and gated feed-forward, final norm, head. Output `logits`. */
export function transformer(options: StreamModelOptions = {}): ModelProto {
  const s = settings(options)
  const net = new Network(s)
  if (s.front === 'patches') {
    net.head(net.blocks(net.patches()), (normed) =>
      net.parts.add('Gather', [normed, net.parts.integers([0], [])], 'classToken', { axis: 1 }),
    )
  } else net.head(net.blocks(net.tokens('input_ids')))
  const type = net.parts.elementType
  const input = s.front === 'patches' ? makeValueInfo('pixels', type, [undefined, 3, 8, 8]) : ids('input_ids')
  return net.parts.model([input], [makeValueInfo('logits')], s.norm)
}

/**
 * Encoder and decoder with cross-attention; keys and values of the decoder read the encoder's final norm `enc/finalNorm`.
 * Both look up the same table `embed` when `shared`; else the encoder has a table `enc/table` of its own.
 * Inputs `input_ids` and `decoder_input_ids`.
 */
export function encoderDecoder(options: StreamModelOptions & { readonly shared?: boolean } = {}): ModelProto {
  const s = settings(options)
  const net = new Network(s)
  const { parts } = net
  const table = options.shared ? parts.weight('embed', [s.vocab, s.width]) : parts.weight('enc/table', [9, s.width])
  const start = { x: parts.add('Gather', [table, 'input_ids'], 'enc/embedded', { axis: 0 }) }
  const { normed } = net.norm(net.blocks(start, 'enc/'), 'enc/finalNorm')
  net.head(net.blocks(net.tokens('decoder_input_ids'), '', normed))
  return parts.model([ids('input_ids'), ids('decoder_input_ids')], [makeValueInfo('logits')], s.norm)
}

/** A small residual convolutional network: pixels [batch, 3, 8, 8] → logits. @param batchNorm before each convolution. */
export function residualConvNet({ batchNorm = false } = {}): ModelProto {
  const parts = new Parts(8, 'float', 1)
  const conv = (from: string, to: string, inputs: number) =>
    parts.add('Conv', [from, parts.weight(`${to}.weight`, [8, inputs, 3, 3])], to, { pads: [1, 1, 1, 1] })
  let x = conv('pixels', 'stem', 3)
  for (const block of ['b0', 'b1']) {
    const vector = (name: string, around: number) => parts.weight(`${block}.${name}`, [8], { scale: 0, around })
    const before = batchNorm
      ? parts.add(
          'BatchNormalization',
          [x, vector('g', 1), vector('b', 0), vector('m', 0), vector('v', 1)],
          `${block}/bn`,
        )
      : x
    x = parts.add('Add', [x, conv(parts.add('Relu', [before], `${block}/relu`), `${block}/conv`, 8)], `${block}/sum`)
  }
  const pooled = parts.add('Flatten', [parts.add('GlobalAveragePool', [x], 'pooled')], 'flat')
  parts.add('MatMul', [pooled, parts.weight('head.weight', [8, 5])], 'logits')
  return parts.model([makeValueInfo('pixels', 1, [undefined, 3, 8, 8])], [makeValueInfo('logits')], 'layer')
}

export { feedsOf, runModel } from './streamRuns.ts'
