/**
 * @file Finds the weighted layers of a model: every stored float tensor that an operator uses as a weight, with all its
 * uses, and every other float tensor with the reason why it stays as it is.
 */
import { type ChainStep, chainStep, isFloatType, movesConstantsOnly, pullBack } from './chain.ts'
import { type Constant, functionKey, indexModel, type ModelIndex, nodesOf, type Reader, type Scope } from './graph.ts'
import {
  isQuantizedOperator,
  isQuantizer,
  isWeightInput,
  type KernelKind,
  type WeightView,
  weightSlot,
} from './operators.ts'
import type { NodeProto } from './proto.ts'

/** One operator that reads a weight, directly or through shape-only nodes. */
export interface WeightUse {
  readonly scope: Scope
  readonly node: NodeProto
  readonly inputIndex: number
  /** Shape-only nodes between the stored tensor and the operator, in order. */
  readonly steps: readonly ChainStep[]
  /** Shape of the weight as the operator sees it; undefined when it is cut or joined (Slice, Concat, …) on the way. */
  readonly dims: readonly number[] | undefined
  /** Element type as the operator sees it, an onnx DataType. */
  readonly dataType: number
  /** The layer's rows and columns are this operator's outputs and what it sums over, in the same order. */
  readonly aligned: boolean
  /** Low-bit operator that can take the place of `node`, reading the layer's rows as they are. */
  readonly kernel: KernelKind | undefined
  /** Reached through a call of a local function. */
  readonly inFunction: boolean
}

/** A stored weight and everything that reads it. */
export interface WeightedLayer {
  /** Unique: the first use's node name, or its first output, or the weight's name where that is taken, or that and a number. */
  readonly name: string
  readonly constant: Constant
  readonly dims: readonly number[]
  readonly weights: number
  /** On the stored tensor; rows = outer · inner, columns = reduction. */
  readonly view: WeightView
  readonly uses: readonly WeightUse[]
  /** Something other than a weight input also reads the tensor (element-wise node, graph output). */
  readonly hasOtherReaders: boolean
  /** Rows of each table, where rows that are to share one were put one after the other; see `CodebookForm`. */
  readonly runs?: readonly number[] | undefined
}

/** A float tensor that is no layer's weight, with the reason in a sentence. */
interface Unquantizable {
  readonly constant: Constant
  readonly operator: string
  readonly node: string
  readonly reason: string
}

export interface Layers {
  readonly index: ModelIndex
  readonly layers: readonly WeightedLayer[]
  readonly unquantizable: readonly Unquantizable[]
  /** Nodes whose weights are integers already. */
  readonly quantizedNodes: readonly { readonly scope: Scope; readonly node: NodeProto }[]
}

/** A weight with fewer elements cannot get smaller; other tensors that small (biases, norms, scalars) are not listed. */
const SMALLEST_WEIGHT = 64

/** Find all weighted layers, in the order of the nodes that use them first. */
function findLayers(index: ModelIndex): Layers {
  const layers: WeightedLayer[] = []
  const unquantizable: Unquantizable[] = []
  const names = new Set<string>()
  for (const scope of index.scopes) {
    for (const constant of scope.constants.values()) {
      const dims = constant.tensor.dims.map(Number)
      const weights = dims.reduce((a, b) => a * b, 1)
      if (!isFloatType(constant.tensor.dataType)) continue
      const found = walkReaders(index, constant.scope, constant.name, dims, constant.tensor.dataType)
      if (weights < SMALLEST_WEIGHT) {
        const use = found.slots[0]
        if (use) unquantizable.push({ constant, ...tooSmall(use) })
        continue
      }
      if (found.slots.length === 0) {
        unquantizable.push({ constant, ...reasonFor(found.others, constant) })
        continue
      }
      layers.push(makeLayer(constant, dims, weights, found, names))
    }
  }
  const order = new Map(index.scopes.flatMap(nodesOf).map((node, i) => [node, i]))
  const firstUse = (layer: WeightedLayer) => Math.min(...layer.uses.map((use) => order.get(use.node)!))
  layers.sort((a, b) => firstUse(a) - firstUse(b))
  const quantizedNodes = index.scopes.flatMap((scope) =>
    (scope.graph ?? scope.fn)!.node.filter(isQuantizedOperator).map((node) => ({ scope, node })),
  )
  return { index, layers, unquantizable, quantizedNodes }
}

/** Index a model and find its layers. */
export function modelLayers(model: ModelIndex['model']): Layers {
  return findLayers(indexModel(model))
}

interface RawUse extends Omit<WeightUse, 'kernel' | 'aligned'> {
  /** Undefined where `dims` is. */
  readonly slotView: WeightView | undefined
  readonly slotKernel: KernelKind | undefined
}

interface Readings {
  readonly slots: RawUse[]
  /** Readers that do not use the tensor as a weight; undefined stands for a graph output. */
  readonly others: (Reader | undefined)[]
}

function walkReaders(
  index: ModelIndex,
  scope: Scope,
  name: string,
  dims: readonly number[],
  dataType: number,
): Readings {
  const found: Readings = { slots: [], others: [] }
  // Pieces of a tensor meet again in every later Concat: each name is followed once.
  const pieces = new Map<Scope, Set<string>>()
  visit(scope, name, dims, dataType, [], false)
  return found

  function visit(
    at: Scope,
    tensor: string,
    shape: readonly number[] | undefined,
    type: number,
    steps: readonly ChainStep[],
    inFunction: boolean,
  ): void {
    if (!shape) {
      const seen = pieces.get(at) ?? new Set()
      pieces.set(at, seen)
      if (seen.has(tensor)) return
      seen.add(tensor)
    }
    if (at.outputs.has(tensor)) found.others.push(undefined)
    for (const reader of at.readers.get(tensor) ?? []) {
      const { scope: readerScope, node, inputIndex } = reader
      const slot = shape && weightSlot(node, inputIndex, shape)
      if (slot || (!shape && isWeightInput(node, inputIndex))) {
        const use = { scope: readerScope, node, inputIndex, steps, dims: shape, dataType: type, inFunction }
        found.slots.push({ ...use, slotView: slot?.view, slotKernel: slot?.kernel })
        continue
      }
      const step = shape && inputIndex === 0 ? chainStep(node, readerScope, shape, type) : undefined
      const output = node.output[0]
      if (step && output) {
        visit(readerScope, output, step.to, step.dataType, [...steps, step], inFunction)
        continue
      }
      if (movesConstantsOnly(node, readerScope)) {
        for (const moved of node.output) if (moved) visit(readerScope, moved, undefined, type, steps, inFunction)
        continue
      }
      const body = index.functions.get(functionKey(reader.node.domain, reader.node.opType, reader.node.overload))
      const formal = body?.fn?.input[reader.inputIndex]
      // A function that calls itself is invalid ONNX; do not follow a call from within a function.
      if (body && formal && !inFunction) visit(body, formal, shape, type, steps, true)
      else found.others.push(reader)
    }
  }
}

function makeLayer(
  constant: Constant,
  dims: readonly number[],
  weights: number,
  found: Readings,
  names: Set<string>,
): WeightedLayer {
  // Where the tensor is cut up before use, it is grouped along its own last axis.
  const lastAxis = { outer: weights / dims.at(-1)!, reduction: dims.at(-1)!, inner: 1 }
  const pulled = found.slots.map((use) => ({
    use,
    ...(use.slotView ? pullBack(use.slotView, use.steps) : { view: lastAxis, sameRows: false }),
  }))
  // The grouping follows the use that gains most from a kernel; the others read the decoded tensor if theirs differs.
  const best =
    pulled.find((p) => p.use.slotKernel === 'matmul' && p.sameRows) ??
    pulled.find((p) => p.use.slotKernel === 'gather' && p.sameRows) ??
    pulled.find((p) => p.use.slotView) ??
    pulled[0]!
  const view = best.view
  const uses = pulled.map(({ use, view: own, sameRows }): WeightUse => {
    const { slotView: _view, slotKernel, ...rest } = use
    const same = own.outer === view.outer && own.reduction === view.reduction && own.inner === view.inner
    const aligned = same && sameRows && use.slotView !== undefined
    return { ...rest, aligned, kernel: aligned && !use.inFunction ? slotKernel : undefined }
  })
  const first = uses[0]!
  const wanted = first.node.name || first.node.output[0] || constant.name
  let name = names.has(wanted) ? constant.name : wanted
  // Bodies and functions have names of their own, which may be the same.
  for (let i = 2; names.has(name); i++) name = `${constant.name}~${i}`
  names.add(name)
  return { name, constant, dims, weights, view, uses, hasOtherReaders: found.others.length > 0 }
}

function tooSmall({ node }: RawUse): Omit<Unquantizable, 'constant'> {
  const reason = `fewer than ${SMALLEST_WEIGHT} weights: would not get smaller`
  return { operator: node.opType, node: node.name || node.output[0] || node.opType, reason }
}

function reasonFor(others: readonly (Reader | undefined)[], constant: Constant): Omit<Unquantizable, 'constant'> {
  const reader = others.find((r) => r !== undefined)
  if (!reader) {
    const isOutput = others.length > 0
    return { operator: '-', node: constant.name, reason: isOutput ? 'is an output of the model' : 'no node reads it' }
  }
  const { node } = reader
  const operator = node.domain && node.domain !== 'ai.onnx' ? `${node.domain}.${node.opType}` : node.opType
  const name = node.name || node.output[0] || node.opType
  if (isQuantizer(node)) return { operator, node: name, reason: 'already on a quantization grid' }
  if (isQuantizedOperator(node))
    return { operator, node: name, reason: 'scale or table of an already quantized weight' }
  const isRecurrent = ['LSTM', 'GRU', 'RNN'].includes(node.opType)
  if (isRecurrent || constant.tensor.dims.filter((d) => d > 1n).length <= 1) {
    return { operator, node: name, reason: 'a vector (bias, norm, scale), kept in its own type' }
  }
  return { operator, node: name, reason: `${operator} input ${reader.inputIndex} is not quantized by qtool` }
}
