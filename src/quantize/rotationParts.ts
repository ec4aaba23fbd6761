/**
 * @file What can be turned in a model, as edits that are made one after the other: each residual stream, the heads, and what
 * is left to transforms in the graph.
 */
import { analyseMainGraph } from '../calibration/mainGraph.ts'
import type { QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import { indexModel } from '../onnx/graph.ts'
import { type Layers, modelLayers } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { findStreams } from '../rsq/findStreams.ts'
import { findHeads } from '../rsq/heads.ts'
import { insertHadamards } from '../rsq/onlineHadamard.ts'
import { rotateHeads } from '../rsq/rotateHeads.ts'
import { rotateStreams } from '../rsq/rotateStreams.ts'
import { randomHadamard } from '../rsq/rotations.ts'
import type { FoundStreams, ResidualStream } from '../rsq/stream.ts'

/** Something that can be turned. */
export interface RotationPart {
  /** For users, without a full stop. */
  readonly name: string
  /** True where another seed may make a better rotation. */
  readonly isSeeded: boolean
  /**
   * A copy of a model, in which other parts may be turned already, with this one turned.
   * @throws QtoolError `numeric` when a weight does not fit its type, `model` when a layer cannot be given a bias, or no
   *   layer a transform.
   */
  readonly apply: (model: OnnxModel, seed: number) => OnnxModel
}

export interface RotationParts {
  readonly parts: readonly RotationPart[]
  /** What looks as if it could be turned and cannot: a sentence each. */
  readonly refused: readonly string[]
}

/** Widest block of a transform in the graph: each token costs width · block multiply-adds. */
const ONLINE_BLOCK = 128

/** Find them. */
export function rotationParts(found: Layers, config: Pick<QuantizeConfig, 'format' | 'onlineRotation'>): RotationParts {
  const graph = analyseMainGraph(found.index)
  const streams = findStreams(graph)
  const heads = findHeads(graph)
  const parts = streams.streams.map((stream): RotationPart => {
    const { width, readers, writers } = stream
    return {
      name: `stream of ${width} channels, ${writers.length} writers, ${readers.length} readers`,
      isSeeded: true,
      apply: (model, seed) => rotatedStream(model, stream, seed, config.format !== 'standard'),
    }
  })
  if (heads.pairs.length > 0) {
    parts.push({
      name: `heads of ${heads.pairs.length} attentions`,
      isSeeded: false,
      apply: (model, seed) => {
        const { pairs } = findHeads(analyseMainGraph(indexModel(model.proto)))
        return rotateHeads(model, pairs, seed).model
      },
    })
  }
  if (config.onlineRotation) {
    parts.push({ name: 'transforms in the graph', isSeeded: false, apply: withTransforms })
  }
  const refused = [...streams.refused, ...heads.refused].map(({ node, reason }) => `${node}: ${reason}`)
  return { parts, refused: [...new Set(refused)] }
}

function rotatedStream(model: OnnxModel, wanted: ResidualStream, seed: number, simplifyNorms: boolean): OnnxModel {
  const found = streamsOf(model)
  // Tensors of a stream keep their names, whatever else was turned.
  const stream = found.streams.find(({ tensors }) => [...tensors].some((name) => wanted.tensors.has(name)))
  if (!stream) throw new RangeError('a stream is not found any more')
  const keepsOnes = stream.norms.some(({ kind }) => kind === 'mean')
  const rotation = randomHadamard(stream.width, { seed, keepsOnes })
  return rotateStreams(model, found, new Map([[stream, rotation]]), { simplifyNorms }).model
}

function streamsOf(model: OnnxModel): FoundStreams {
  return findStreams(analyseMainGraph(indexModel(model.proto)))
}

/** Transforms before all layers whose inputs are neither a stream's nor those of rotated heads. */
function withTransforms(model: OnnxModel, seed: number): OnnxModel {
  const { index, layers } = modelLayers(model.proto)
  const graph = analyseMainGraph(index)
  const offline = new Set([
    ...findStreams(graph).streams.flatMap(({ readers }) => readers.map(({ node }) => node)),
    ...findHeads(graph).pairs.flatMap(({ uses }) => uses.map(({ node }) => node)),
  ])
  const products = layers.flatMap(({ uses }) =>
    uses.filter(({ kernel }) => kernel === 'matmul').map(({ node }) => node),
  )
  const nodes = products.filter((node) => !offline.has(node))
  const { model: made, transforms, refused } = insertHadamards(model, nodes, { seed, largest: ONLINE_BLOCK })
  if (transforms.length > 0) return made
  const why = refused.length > 0 ? `: ${refused.map(({ node, reason }) => `${node}: ${reason}`).join('; ')}` : ''
  throw new QtoolError('model', `no layer is left that could take one${why}`)
}
