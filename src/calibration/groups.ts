/**
 * @file Groups of layers that are solved together: those that sum over the same tensors share their statistics, and the
 * graph is cut before the first of them.
 */
import type { WeightedLayer, WeightUse } from '../onnx/layers.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { aliveAt, canCut, type constantUses, type MainGraph } from './mainGraph.ts'
import { type Tap, tapOf } from './taps.ts'

/** A layer of a group. */
interface GroupMember {
  readonly layer: WeightedLayer
  /** The first use whose inputs the statistics are of; undefined without statistics. */
  readonly use: WeightUse | undefined
  /** Why there are no statistics. */
  readonly reason: string | undefined
  /** Where there are: why uses are left out of them, one reason for each. Look-ups of rows, which sum nothing, aside. */
  readonly leftOut: readonly string[]
}

/** A tap, and the cut before the first node that reads it. */
interface PlacedTap {
  readonly tap: Tap
  readonly position: number
}

export interface LayerGroup {
  /** Place of the node before which the group is solved. */
  readonly position: number
  /** What the statistics are of, which are gathered there; undefined for a layer that is rounded without. */
  readonly tap: Tap | undefined
  /**
   * In place of `tap` for a weight that several products read, or that is looked up first and multiplied later: what all of
   * them read, in the order of the cuts. Their blocks and columns are the same, so that their statistics add up.
   */
  readonly ahead: readonly PlacedTap[] | undefined
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
  const places = new Map(graph.nodes.map((node, at) => [node, at]))
  const cuttable = new Map<number, boolean>()
  const canCutAt = (at: number) => {
    const known = cuttable.get(at) ?? canCut(graph, aliveAt(graph, constants, at))
    cuttable.set(at, known)
    return known
  }
  const parts = { graph, uses, edit, places, canCutAt }
  const groups = new Map<string, { found: Found; members: Found[] }>()
  for (const [i, member] of layers.map((layer) => findTaps(layer, parts)).entries()) {
    const key = keyOf(member) ?? `layer ${i}`
    const known = groups.get(key)
    if (!known) groups.set(key, { found: member, members: [member] })
    else {
      known.members.push(member)
      known.found = joined(known.found, member)
    }
  }
  return [...groups.values()]
    .sort((a, b) => a.found.position - b.found.position || a.found.rank - b.found.rank)
    .map(({ found: { position, tap, ahead }, members }) => ({
      position,
      tap,
      ahead,
      members: members.map(({ layer, use, reason, leftOut }) => ({ layer, use, reason, leftOut })),
    }))
}

function keyOf({ tap, ahead }: Found): string | undefined {
  if (tap) return `tap ${tap.key}`
  return ahead && `ahead ${ahead.map((placed) => placed.tap.key).join(' ')}`
}

/** Before the first use of either. */
function joined(one: Found, other: Found): Found {
  const position = Math.min(one.position, other.position)
  const ahead = one.ahead?.map(({ tap, position: at }, i) => ({
    tap,
    position: Math.min(at, other.ahead![i]!.position),
  }))
  return { ...one, position, ahead }
}

interface Parts {
  readonly graph: MainGraph
  readonly uses: ReturnType<typeof constantUses>
  readonly edit: (node: NodeProto) => NodeProto
  readonly places: ReadonlyMap<NodeProto, number>
  readonly canCutAt: (at: number) => boolean
}

function findTaps(layer: WeightedLayer, { graph, uses, edit, places, canCutAt }: Parts): Found {
  const position = uses.get(layer.constant.name)?.first ?? graph.nodes.length
  const none = { layer, use: undefined, position, tap: undefined, ahead: undefined, rank: 0, leftOut: [] }
  if (layer.constant.scope !== graph.scope) return { ...none, reason: 'lies in a subgraph or function' }
  if (position === graph.nodes.length) return { ...none, reason: 'no node that depends on the inputs reads it' }
  const taps = new Map<string, PlacedTap & { readonly use: WeightUse }>()
  const reasons: { readonly use: WeightUse; readonly reason: string }[] = []
  for (const use of layer.uses) {
    const at = places.get(use.node) ?? -1
    const tap = tapOf({ ...use, node: edit(use.node) }, layer, graph.index)
    const [first] = taps.values()
    if ('reason' in tap) reasons.push({ use, reason: tap.reason })
    else if (!canCutAt(at)) reasons.push({ use, reason: 'the graph cannot be cut before it' })
    else if (first && first.tap.blocks !== tap.blocks) {
      const reason = `the ${use.node.opType} that reads it multiplies its rows with other inputs each`
      reasons.push({ use, reason })
    } else if (at < (taps.get(tap.key)?.position ?? Number.POSITIVE_INFINITY)) {
      taps.set(tap.key, { tap, position: at, use })
    }
  }
  const placed = [...taps.values()].sort((a, b) => a.position - b.position)
  const [first] = placed
  if (!first) {
    const own = reasons.find(({ use }) => use.node === graph.nodes[position]) ?? reasons[0]
    return { ...none, reason: own?.reason ?? 'is first used in another way' }
  }
  const leftOut = reasons.flatMap(({ use, reason }) => (isLookup(use) ? [] : [reason]))
  const found = { ...none, use: first.use, reason: undefined, leftOut }
  // All uses read the same: the statistics can wait until the quantized network is there.
  if (placed.length === 1 && first.position === position) {
    return { ...found, tap: first.tap, rank: first.use.inputIndex }
  }
  return { ...found, ahead: placed.map(({ tap, position: at }) => ({ tap, position: at })) }
}

function isLookup({ node }: WeightUse): boolean {
  return node.opType === 'Gather' || node.opType === 'EmbedLayerNormalization'
}

/** True where the walk stops before the group is solved: at a product of it, where the graph can be cut. */
export function isSolvedAtCut({ position, tap, ahead }: Pick<LayerGroup, 'position' | 'tap' | 'ahead'>): boolean {
  return tap !== undefined || (ahead?.some((placed) => placed.position === position) ?? false)
}

/** Where the walk through both networks stops to solve groups, ascending. */
export function cutsOf(groups: readonly LayerGroup[]): number[] {
  return [...new Set(groups.filter(isSolvedAtCut).map(({ position }) => position))].sort((a, b) => a - b)
}

/** Cuts after the own one until the networks are compared: the next layers have had their effect then. */
const HORIZON = 2

/** The cut at which candidates for a group at `position` are compared. @param end the number of nodes. */
export function horizonOf(cuts: readonly number[], position: number, end: number): number {
  return cuts[cuts.indexOf(position) + HORIZON] ?? end
}
