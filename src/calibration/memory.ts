/**
 * @file What a calibration will take of memory, told from the graph before anything runs: the weights of a part between two
 * cuts, the matrices of a group's statistics, and what the solver makes of them. An estimate: what onnxruntime allocates
 * for the activations of a batch is not known beforehand.
 */
import { subgraphs } from '../onnx/attributes.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import { makeModel, type TensorProto } from '../onnx/proto.ts'
import { elementBits, tensorByteLength } from '../onnx/tensorData.ts'
import { forEachTensor } from '../onnx/tensors.ts'
import { cutsOf, horizonOf, isSolvedAtCut, type LayerGroup } from './groups.ts'
import { aliveAt, type constantUses, type MainGraph } from './mainGraph.ts'
import { planStage, type StageOptions } from './stageModel.ts'

/** The program with onnxruntime, and activations that stay in memory (96 MiB). */
const BASE_BYTES = 250e6
/** Times that a constant inside a stage's model is in memory: message, bytes, twice as the runtime loads it, and packed for products. */
const EMBEDDED_COPIES = 5
/** Per weight of a layer under solution: rows, target and two candidates in float32, codes of three. */
const SOLVED_BYTES = 20
/** Per weight of a layer that is rounded only. */
const ROUNDED_BYTES = 13
/** A model of fewer bytes of constants is small whatever its cuts are. */
const LARGE_MODEL = 100e6

interface MemoryEstimate {
  /** Most bytes at a time. */
  readonly bytes: number
  /** Name of the layer where that is; undefined where there are no layers. */
  readonly at: string | undefined
  /**
   * Set for a large model of which one part between two cuts holds more than half: its share of the bytes of all
   * constants, 0 … 1, and why it is not cut.
   */
  readonly uncut: { readonly share: number; readonly why: string } | undefined
}

interface Place {
  readonly bytes: number
  readonly at: string | undefined
}

/**
 * Estimate the peak of a calibrated run.
 * @param groups  as they will be solved, in their order.
 * @param uses    of constants.
 * @param options of the stages; `fed` are the weights that change.
 * @param content bytes of the model's file, where it was read at once.
 */
export function estimateMemory(
  graph: MainGraph,
  groups: readonly LayerGroup[],
  uses: ReturnType<typeof constantUses>,
  options: StageOptions,
  content: number,
): MemoryEstimate {
  const end = graph.nodes.length
  const cuts = cutsOf(groups)
  const functionBytes = sizeOf(makeModel({ functions: graph.index.model.functions }))
  const partOf = (from: number, to: number) => partBytes(graph, from, to, functionBytes, options)
  const places: Place[] = []
  const add = (at: string | undefined, ...bytes: number[]) =>
    places.push({ at, bytes: bytes.reduce((a, b) => a + b, BASE_BYTES + content) })

  // The float network alone, for weights that several products read: their sums stay.
  const ahead = groups.flatMap((group) => (group.ahead ?? []).map((placed) => ({ ...placed, group })))
  const last = Math.max(0, ...ahead.map(({ position }) => position))
  const stops = [...new Set([...cuts, ...ahead.map(({ position }) => position)])].sort((a, b) => a - b)
  let from = 0
  for (const to of stops.filter((stop) => stop <= last)) {
    const begun = new Set(ahead.filter(({ position }) => position <= to).map(({ group }) => group))
    const own = ahead.find(({ position }) => position === to)
    const sums = [...begun].reduce((sum, { ahead: taps }) => sum + statisticsBytes(taps![0]!.tap), 0)
    add(own?.group.members[0]?.layer.name, partOf(from, to).held, sums, own ? statisticsBytes(own.tap) : 0)
    from = to
  }

  const names = new Map(groups.map((group) => [group.position, group.members[0]!.layer.name]))
  let position = 0
  const parts: { readonly from: number; readonly to: number; readonly size: PartBytes }[] = []
  const advance = (to: number) => {
    if (to <= position) return
    const size = partOf(position, to)
    parts.push({ from: position, to, size })
    const name = names.get(to) ?? groups.at(-1)?.members[0]?.layer.name
    add(name, size.held, quantizedBytes(groups, uses, position, to), aheadBytes(groups, position))
    position = to
  }
  const trials = new Map<number, number>()
  for (const group of groups) {
    const atCut = isSolvedAtCut(group)
    if (atCut) advance(group.position)
    if (group.tap && !trials.has(position)) {
      trials.set(position, partOf(position, horizonOf(cuts, position, end)).held)
    }
    add(
      group.members[0]!.layer.name,
      group.tap ? trials.get(position)! : 0,
      quantizedBytes(groups, uses, position, position),
      aheadBytes(groups, group.position),
      groupBytes(group),
    )
  }
  advance(end)
  const most = places.reduce((a, b) => (b.bytes > a.bytes ? b : a), { bytes: BASE_BYTES + content, at: undefined })
  return { ...most, uncut: uncutPart(graph, groups, parts) }
}

/** Float64 and, at the end of each run, float32: of the quantized network's input, and of both networks'; or of fit and held. */
function statisticsBytes({ blocks, cols }: NonNullable<LayerGroup['tap']>): number {
  return 16 * blocks * cols * cols
}

/** Statistics, Hessians with their factors, and the members' rows and codes. */
function groupBytes({ tap, ahead, members }: LayerGroup): number {
  const weights = members.reduce((sum, { layer }) => sum + layer.weights, 0)
  const own = tap ?? ahead?.[0]?.tap
  if (!own) return ROUNDED_BYTES * weights
  // Statistics gathered ahead are counted with those that wait.
  const statistics = tap ? statisticsBytes(tap) : 0
  // Kept for each block: damped Hessian, factor, drift in float32. For one block at a time, six in float64: moments,
  // what is factored, its factor, the right-hand side, the solution. Measured: 63 bytes in all for one block of 2048.
  const solver = (12 * own.blocks + 48) * own.cols * own.cols
  return statistics + solver + SOLVED_BYTES * weights
}

/** Sums gathered ahead for groups that are not solved yet. */
function aheadBytes(groups: readonly LayerGroup[], position: number): number {
  return groups.reduce(
    (sum, { ahead, position: at }) => sum + (ahead && at >= position ? statisticsBytes(ahead[0]!.tap) : 0),
    0,
  )
}

/** Quantized copies of the weights that nodes from `from` on read, solved before `to`. */
function quantizedBytes(
  groups: readonly LayerGroup[],
  uses: ReturnType<typeof constantUses>,
  from: number,
  to: number,
): number {
  const isAlive = ({ constant }: WeightedLayer) => (uses.get(constant.name)?.last ?? -1) >= from
  return groups
    .filter(({ position }) => position < to)
    .flatMap(({ members }) => members.filter(({ layer }) => isAlive(layer)))
    .reduce((sum, { layer }) => sum + bytesOf(layer.constant.tensor), 0)
}

interface PartBytes {
  /** Of its constants, once each. */
  readonly constants: number
  /** Of those, what lies in bodies of control flow and in functions. */
  readonly inBodies: number
  /** The largest of its constants. */
  readonly largest: number
  /** What it holds in memory while it runs. */
  readonly held: number
}

function partBytes(
  graph: MainGraph,
  from: number,
  to: number,
  functionBytes: number,
  options: StageOptions,
): PartBytes {
  const made = (name: string) => (graph.madeAt.get(name) ?? -1) >= from
  const outputs = to === graph.nodes.length ? graph.outputs : aliveAt(graph, options.constants, to)
  const stage = planStage(graph, from, to, outputs.filter(made), options)
  const isFed = new Set(stage.fed)
  let fed = 0
  let embedded = 0
  let largest = 0
  const read = new Set(stage.nodes.flatMap((node) => graph.reads.get(node)!))
  for (const name of new Set([...read, ...stage.fed])) {
    const constant = graph.scope.constants.get(name)
    if (!constant) continue
    const bytes = bytesOf(constant.tensor)
    largest = Math.max(largest, bytes)
    if (isFed.has(name)) fed += bytes
    else embedded += bytes
  }
  const bodies = stage.nodes.flatMap((node) => subgraphs(node).map((body) => body.graph))
  const inBodies = bodies.reduce((sum, body) => sum + sizeOf(makeModel({ graph: body })), functionBytes)
  const constants = fed + embedded + inBodies
  return { constants, inBodies, largest, held: fed + EMBEDDED_COPIES * (embedded + inBodies) }
}

function uncutPart(
  graph: MainGraph,
  groups: readonly LayerGroup[],
  parts: readonly { readonly from: number; readonly to: number; readonly size: PartBytes }[],
): MemoryEstimate['uncut'] {
  const all = sizeOf(graph.index.model)
  const part = parts.find(({ size }) => size.constants > all / 2)
  if (!part || all < LARGE_MODEL) return undefined
  const { from, to, size } = part
  // One tensor alone cannot be cut, wherever the graph is.
  if (size.largest > size.constants / 2) return undefined
  const share = Math.min(1, size.constants / all)
  if (size.inBodies > size.constants / 2) {
    return { share, why: 'they lie in bodies of If, Loop or Scan, or in functions, each of which runs as a whole' }
  }
  const reasons = groups
    .filter(({ position }) => position >= from && position < to)
    .flatMap(({ members }) => members.flatMap(({ reason }) => reason ?? []))
  const most = [...new Set(reasons)].sort((a, b) => count(reasons, b) - count(reasons, a))[0]
  return { share, why: most ?? 'no layer in it is to be quantized, or all of them read the same tensor' }
}

function count(list: readonly string[], wanted: string): number {
  return list.filter((one) => one === wanted).length
}

/** Bytes of all tensors of a model. */
function sizeOf(model: Parameters<typeof forEachTensor>[0]): number {
  let bytes = 0
  forEachTensor(model, (tensor) => {
    bytes += bytesOf(tensor)
  })
  return bytes
}

/** 0 for strings. */
function bytesOf(tensor: TensorProto): number {
  return elementBits(tensor.dataType) === undefined ? 0 : tensorByteLength(tensor)
}
