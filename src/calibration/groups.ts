/**
 * @file Groups of layers that are solved together: those that sum over the same tensor share its statistics, and the
 * graph is cut before the first of them.
 */
import type { WeightedLayer, WeightUse } from '../onnx/layers.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { aliveAt, canCut, type constantUses, type MainGraph } from './mainGraph.ts'
import { type Tap, tapOf } from './taps.ts'

/** A layer of a group. */
interface GroupMember {
  readonly layer: WeightedLayer
  /** The use whose input the statistics are of; undefined without statistics. */
  readonly use: WeightUse | undefined
  /** Why there are no statistics. */
  readonly reason: string | undefined
}

export interface LayerGroup {
  /** Place of the node before which the graph is cut. */
  readonly position: number
  /** What the statistics are of; undefined for a layer that is rounded without. */
  readonly tap: Tap | undefined
  /** For a layer that is looked up first and multiplied later: what its products read, and the cut before them. */
  readonly ahead: { readonly tap: Tap; readonly position: number } | undefined
  readonly members: readonly GroupMember[]
}

interface Found extends GroupMember {
  readonly position: number
  readonly tap: Tap | undefined
  readonly ahead: LayerGroup['ahead']
  /** Order among groups of one position: recurrent weights come after those of the input. */
  readonly rank: number
}

/**
 * Group layers, in the order in which they are solved.
 * @param edit a node as calibration runs it.
 */
export function groupLayers(
  graph: MainGraph,
  constants: ReadonlySet<string>,
  uses: ReturnType<typeof constantUses>,
  layers: readonly WeightedLayer[],
  edit: (node: NodeProto) => NodeProto,
): LayerGroup[] {
  const found = layers.map((layer) => findTap(graph, constants, uses, layer, edit))
  const groups = new Map<
    string,
    { position: number; rank: number; tap: Tap | undefined; ahead: LayerGroup['ahead']; members: Found[] }
  >()
  for (const [i, member] of found.entries()) {
    const key = member.tap ? `tap ${member.tap.key}` : `layer ${i}`
    const known = groups.get(key)
    if (!known) groups.set(key, { ...member, members: [member] })
    else {
      known.members.push(member)
      known.position = Math.min(known.position, member.position)
    }
  }
  return [...groups.values()]
    .sort((a, b) => a.position - b.position || a.rank - b.rank)
    .map(({ position, tap, ahead, members }) => ({
      position,
      tap,
      ahead,
      members: members.map(({ layer, use, reason }) => ({ layer, use, reason })),
    }))
}

function findTap(
  graph: MainGraph,
  constants: ReadonlySet<string>,
  uses: ReturnType<typeof constantUses>,
  layer: WeightedLayer,
  edit: (node: NodeProto) => NodeProto,
): Found {
  const position = uses.get(layer.constant.name)?.first ?? graph.nodes.length
  const found = { layer, use: undefined, position, tap: undefined, ahead: undefined, rank: 0 }
  const without = (reason: string): Found => ({ ...found, reason })
  if (layer.constant.scope !== graph.scope) return without('lies in a subgraph or function')
  if (position === graph.nodes.length) return without('no node that depends on the inputs reads it')
  const first = layer.uses.filter((use) => graph.nodes[position] === use.node)
  const reasons: string[] = []
  for (const use of first) {
    const tap = tapOf({ ...use, node: edit(use.node) }, layer, graph.index)
    if ('reason' in tap) {
      reasons.push(tap.reason)
      continue
    }
    if (!canCut(graph, aliveAt(graph, constants, position))) return without('the graph cannot be cut before it')
    return { ...found, use, reason: undefined, tap, rank: use.inputIndex }
  }
  for (const use of layer.uses) {
    const at = graph.nodes.indexOf(use.node)
    const tap = at > position ? tapOf({ ...use, node: edit(use.node) }, layer, graph.index) : undefined
    if (!tap || 'reason' in tap || !canCut(graph, aliveAt(graph, constants, at))) continue
    return { ...found, use, reason: undefined, ahead: { tap, position: at } }
  }
  return without(reasons[0] ?? 'is first used in another way')
}
