/**
 * @file Hadamard transforms inside the graph, before layers whose inputs cannot be rotated in stored weights: x ← x·B and
 * W ← W·B with B made of equal orthonormal blocks along the diagonal, so that the layer computes what it did (QuaRot, Ashkboos et
 * al. 2024, who transform the whole width; a block costs less and is one small product in any runtime).
 */
import { analyseMainGraph, type MainGraph } from '../calibration/mainGraph.ts'
import { indexModel } from '../onnx/graph.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { DataType, makeNode, type NodeProto } from '../onnx/proto.ts'
import { AxisFacts } from './axisFacts.ts'
import { applyEditsInPlace, type CopiedConstant, EditPlan } from './constantEdits.ts'
import { readVectors } from './constantVectors.ts'
import { vectorsOf } from './haar.ts'
import { largestHadamardDivisor } from './hadamard.ts'
import { ModelDraft } from './modelDraft.ts'
import { type Projection, projectionOf } from './products.ts'
import type { Rotation } from './rotation.ts'
import { matrixOf, randomHadamard } from './rotations.ts'
import { strangerAt } from './storedWeights.ts'

/** Smaller blocks spread too little for what they cost. */
const SMALLEST_BLOCK = 16

export interface OnlineOptions {
  /** Of the signs. */
  readonly seed: number
  /** Largest block; each token costs width · block multiply-adds. */
  readonly largest: number
}

/** A transform that was put into the graph. */
interface OnlineTransform {
  /** The tensor that it reads. */
  readonly tensor: string
  readonly width: number
  readonly block: number
  /** Names of the layers that read the transformed tensor, or their outputs. */
  readonly layers: readonly string[]
}

export interface OnlineHadamards {
  readonly model: OnnxModel
  readonly transforms: readonly OnlineTransform[]
  /** Layers that stay as they are, with a reason for users, without a full stop. */
  readonly refused: readonly { readonly node: string; readonly reason: string }[]
  readonly copies: readonly CopiedConstant[]
}

/** Layers that read one tensor, with one width. */
interface Site {
  readonly tensor: string
  readonly block: number
  readonly layers: Projection[]
}

/**
 * A copy of a model with a transform before each of the given layers; layers that read the same tensor share one.
 * @param layers MatMul, Gemm or FusedMatMul nodes of the model with a stored matrix on the right.
 * @throws QtoolError `numeric` when a weight is not finite, or too large for its type.
 */
export function insertHadamards(
  model: OnnxModel,
  layers: readonly NodeProto[],
  options: OnlineOptions,
): OnlineHadamards {
  const graph = analyseMainGraph(indexModel(model.proto))
  const { sites, refused } = findSites(graph, layers, options.largest)
  const draft = new ModelDraft(model)
  const facts = new AxisFacts(graph)
  const plan = new EditPlan()
  const stored = new Map<string, StoredBlock>()
  for (const site of sites) {
    const { node, constant } = site.layers[0]!
    const own = draft.constantOf(constant)
    const dataType = draft.typeAt(draft.pathTo(draft.nodeOf(node), 1, own.name), own)
    const key = JSON.stringify([site.layers[0]!.inputs, site.block, dataType])
    const block = stored.get(key) ?? storeBlock(draft, site, dataType, options.seed)
    stored.set(key, block)
    const output = insertTransform(draft, site, facts.rank(site.tensor), block.name)
    for (const layer of site.layers) {
      const copy = draft.nodeOf(layer.node)
      const matrix = draft.constantOf(layer.constant)
      plan.add(copy, 1, matrix, layer.inputAxis, { kind: 'rotate', rotation: block.rotation })
      plan.add(copy, 1, matrix, layer.inputAxis, { kind: 'scale', gain: block.correction })
      copy.input[0] = output
    }
  }
  const copies = applyEditsInPlace(draft, plan)
  const transforms = sites.map(({ tensor, block, layers: own }) => ({
    tensor,
    block,
    width: own[0]!.inputs,
    layers: own.map(({ node }) => nameOf(node)),
  }))
  return { model: draft.model, transforms, refused, copies }
}

const nameOf = (node: NodeProto) => node.name || node.output[0]!

function findSites(graph: MainGraph, layers: readonly NodeProto[], largest: number) {
  const wanted = new Set(layers)
  const sites = new Map<string, Site>()
  const refused: { node: string; reason: string }[] = []
  // In the order of the graph: the transform stands before the first of its layers.
  for (const node of graph.nodes.filter((each) => wanted.has(each))) {
    const projection = projectionOf(graph, node)
    const found = projection
      ? siteOf(graph, projection, wanted, largest)
      : 'it does not multiply data with a stored matrix'
    if (typeof found === 'string') {
      refused.push({ node: nameOf(node), reason: `no transform before it: ${found}` })
      continue
    }
    const known = sites.get(found.tensor)
    if (known) known.layers.push(projection!)
    else sites.set(found.tensor, found)
  }
  return { sites: [...sites.values()], refused }
}

function siteOf(graph: MainGraph, layer: Projection, wanted: ReadonlySet<NodeProto>, largest: number): Site | string {
  const block = largestHadamardDivisor(layer.inputs, largest)
  if (block < SMALLEST_BLOCK) return `no block from ${SMALLEST_BLOCK} to ${largest} divides its ${layer.inputs} inputs`
  const isKnown = (node: NodeProto, inputIndex: number) => (wanted.has(node) && inputIndex === 1) || undefined
  if (strangerAt(graph, layer.constant, isKnown)) return 'its weight is used elsewhere'
  return { tensor: layer.node.input[0]!, block, layers: [layer] }
}

interface StoredBlock {
  readonly name: string
  /** Of the whole width. */
  readonly rotation: Rotation
  /** Factors on the weights that make up for the rounding of the block's entries. */
  readonly correction: Float64Array
}

function storeBlock(draft: ModelDraft, { block, layers }: Site, dataType: number, seed: number): StoredBlock {
  const width = layers[0]!.inputs
  const turn = randomHadamard(block, { seed })
  const { name, tensor } = draft.addConstant(`hadamard_${block}`, dataType, [block, block], matrixOf(turn))
  // All entries have one magnitude, so that rounding them only scales the matrix.
  const magnitude = Math.abs(readVectors(draft.model, tensor, 1)[0]!)
  const apply = (vectors: Float64Array, rotate: (vectors: Float64Array) => void) => {
    for (const part of vectorsOf(vectors, width)) rotate(part)
  }
  const rotation: Rotation = {
    width,
    applyInPlace: (vectors) => apply(vectors, turn.applyInPlace),
    invertInPlace: (vectors) => apply(vectors, turn.invertInPlace),
  }
  return { name, rotation, correction: new Float64Array(width).fill(1 / (magnitude * Math.sqrt(block))) }
}

/** Reshape to blocks, multiply, and reshape back, for any batch and length. @returns the transformed tensor. */
function insertTransform(
  draft: ModelDraft,
  { tensor, block, layers }: Site,
  rank: number | undefined,
  matrix: string,
): string {
  const width = layers[0]!.inputs
  const add = (opType: string, inputs: readonly string[], label: string): NodeProto => {
    const output = draft.freshName(`${tensor}/${label}`)
    return makeNode(opType, inputs, [output], { name: output })
  }
  // Zeros copy a dimension, which takes no node to compute the shape; without a known rank it is taken from the tensor.
  const lead = rank === undefined ? undefined : Array<number>(rank - 1).fill(0)
  const split = addIntegers(draft, lead ? [...lead, width / block, block] : [-1, block])
  const blocks = add('Reshape', [tensor, split], 'blocks')
  const turned = add('MatMul', [blocks.output[0]!, matrix], 'turned')
  const shape = lead ? [] : [add('Shape', [tensor], 'shape')]
  const whole = lead ? addIntegers(draft, [...lead, width]) : shape[0]!.output[0]!
  const back = add('Reshape', [turned.output[0]!, whole], 'hadamard')
  draft.insertBefore(draft.nodeOf(layers[0]!.node), [blocks, turned, ...shape, back])
  return back.output[0]!
}

function addIntegers(draft: ModelDraft, values: readonly number[]): string {
  const { name, tensor } = draft.addTensor(`shape_${values.join('_')}`, DataType.INT64, [values.length])
  tensor.rawData = new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer)
  return name
}
