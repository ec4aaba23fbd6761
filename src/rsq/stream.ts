/**
 * @file What a residual stream is to its rotations: the tensors that are added up, the constants that write to them, and
 * the layers that read them, as a rule through a norm. All of it lies along one axis of `width` channels.
 */
import type { Constant } from '../onnx/graph.ts'
import type { NodeProto } from '../onnx/proto.ts'

/** A stored float tensor with the stream's channels along one of its axes. */
interface StreamConstant {
  readonly constant: Constant
  /** Axis of the stored tensor that has the stream's channels. */
  readonly axis: number
}

/**
 * A constant whose vectors along `axis` come onto the stream by sums: weights and biases of the layers at the ends of
 * branches, embeddings, position tables, class tokens.
 */
export interface Writer extends StreamConstant {
  /** The node that makes of it a tensor of the stream: MatMul, Gemm, Conv, Gather, Add. */
  readonly node: NodeProto
  readonly inputIndex: number
}

/** A layer that sums over the stream's channels: y = W·x. */
export interface Reader extends StreamConstant {
  readonly node: NodeProto
  readonly inputIndex: number
  /** The norm that the stream passes before it; undefined where it reads the stream itself. */
  readonly norm: Norm | undefined
}

/** A vector [width] of a norm: its place, so that the node can be given another one. */
export interface NormVector {
  readonly constant: Constant
  readonly node: NodeProto
  readonly inputIndex: number
}

/** A norm on the stream, one node or the operators that exporters write. */
export interface Norm {
  /** `mean`: subtracts the mean (LayerNorm). `plain`: divides by the root mean square only (RMSNorm). */
  readonly kind: 'mean' | 'plain'
  /** Name of the tensor of the stream that it reads, and of the normalised one, after gain and bias. */
  readonly input: string
  readonly output: string
  /** γ and β; undefined where there is none. */
  readonly gain: NormVector | undefined
  readonly bias: NormVector | undefined
  /** Skip norms add before they norm: their own added bias is a {@link Writer}, not this. */
  readonly nodes: readonly NodeProto[]
}

/** A stream that can be turned. */
export interface ResidualStream {
  readonly width: number
  /** Names of all tensors on it. */
  readonly tensors: ReadonlySet<string>
  readonly writers: readonly Writer[]
  readonly readers: readonly Reader[]
  readonly norms: readonly Norm[]
}

/** A sum that looks like a stream and cannot be turned. */
export interface RefusedStream {
  /** Of the nodes at it, the first one that stands in the way; by name, or its output. */
  readonly node: string
  /** A sentence without a full stop, for users: what stands there and why that cannot be turned. */
  readonly reason: string
}

/** What a search comes to. */
export interface FoundStreams {
  /** In the order of the graph. */
  readonly streams: readonly ResidualStream[]
  readonly refused: readonly RefusedStream[]
}
