/**
 * @file The calibration data on its way through the network, cut by cut, for the float network and for the one whose
 * layers are quantized so far side by side. Only one stage's weights are in memory.
 */
import type { Dataset } from '../data/dataset.ts'
import type { FeedBatch, FeedTensor } from '../data/modelInput.ts'
import { tokenWeights } from '../data/tokenWeights.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { NodeProto } from '../onnx/proto.ts'
import { tensorBytes } from '../onnx/tensorData.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { openSession, type Session, type SessionOptions } from '../runtime/session.ts'
import { Activations, type Path } from './activations.ts'
import { aliveAt, constantNames, constantUses, type MainGraph } from './mainGraph.ts'
import { ADDED_INPUT, dataTypeOf, encodeStage, planStage, type Stage, type StageOptions } from './stageModel.ts'
import { feedOfBytes } from './tensors.ts'

export interface WalkOptions {
  readonly model: OnnxModel
  readonly graph: MainGraph
  /** Samples that fits may see. */
  readonly fit: Dataset
  /** Samples that only judge. */
  readonly held: Dataset
  readonly batchSize: number
  /** Weights that change: fed in every stage. */
  readonly weights: ReadonlySet<string>
  /** A node as calibration runs it, with added inputs for biases. */
  readonly edit: (node: NodeProto) => NodeProto
  /** Names of the scratch directory, made when it is needed. */
  readonly scratch: () => string
  /** Outputs of the model for one held-out batch, float and quantized. */
  readonly onOutput?: (name: string, batch: number, float: FeedTensor, quantized: FeedTensor) => void
  readonly run: RunOptions
}

/** What is known of a batch besides its feeds. */
export interface WalkBatch {
  readonly count: number
  /** Numbers of its samples in the data, from 0. */
  readonly numbers: Int32Array
  /** Weight of each token [batch · sequence], 0 for padding; undefined when all count. */
  readonly weights: Float32Array | undefined
}

/** What a stage session is fed for names that are not activations. */
export type Values = ReadonlyMap<string, FeedTensor>

export class Walk {
  readonly graph: MainGraph
  readonly constants: ReadonlySet<string>
  readonly constantUses: ReturnType<typeof constantUses>
  readonly activations: Activations
  readonly #options: WalkOptions
  readonly #stageOptions: StageOptions
  /** Values of the quantized network that differ from the float one's: weights, biases. */
  readonly #changed = new Map<string, FeedTensor>()
  /** Values of added inputs in the float network. */
  readonly #added = new Map<string, FeedTensor>()
  readonly #drifted = new Set<string>()
  /** Constants of the stage at hand. */
  readonly #read = new Map<string, FeedTensor>()
  /** What nodes make of constants alone, by side and name, at this position. */
  readonly #computed = new Map<string, FeedTensor>()
  #position = 0
  /** Those that fits may see first. */
  readonly batches: WalkBatch[] = []
  readonly fitBatches: number

  constructor(options: WalkOptions) {
    const { graph, fit, held, batchSize, weights, edit, scratch } = options
    this.graph = graph
    this.#options = options
    this.constants = constantNames(graph)
    this.constantUses = constantUses(graph, this.constants)
    this.#stageOptions = { constants: this.constants, fed: weights, edit }
    this.activations = new Activations(scratch)
    for (const batch of fit.batches(batchSize)) this.#take(batch, fit)
    this.fitBatches = this.batches.length
    for (const batch of held.batches(batchSize)) this.#take(batch, held)
  }

  #take(batch: FeedBatch, { order }: Dataset): void {
    const { count, start, feeds } = batch
    const number = this.batches.length
    for (const [name, tensor] of feeds) {
      if (this.graph.lastReadAt.has(name)) this.activations.put('float', number, name, tensor)
    }
    this.batches.push({ count, numbers: order.slice(start, start + count), weights: tokenWeights(batch) })
  }

  /** Of the model, for messages. */
  get path(): string {
    return this.#options.model.path
  }

  /** Nodes before this one have run. */
  get position(): number {
    return this.#position
  }

  /** True when a name's value differs between the two networks. */
  isDrifted(name: string): boolean {
    return this.#drifted.has(name)
  }

  /** True for a name whose value depends on the batch. */
  isActivation(name: string): boolean {
    return !this.constants.has(name) && !name.startsWith(ADDED_INPUT)
  }

  /** Activations of one network. Where nothing before them is quantized both have the same. */
  get(side: Path, batch: number, name: string): FeedTensor {
    return this.activations.get(this.#sideOf(side, name), batch, name)
  }

  #sideOf(side: Path, name: string): Path {
    return side === 'quantized' && this.#drifted.has(name) ? 'quantized' : 'float'
  }

  /** Give an added input its value in the float network. */
  addInput(name: string, value: FeedTensor): void {
    this.#added.set(name, value)
  }

  /** From now on the quantized network computes with this weight or added input. */
  change(name: string, value: FeedTensor): void {
    this.#changed.set(name, value)
    this.#drifted.add(name)
    this.#computed.clear()
    // What nodes make of it alone changes with it.
    this.#spreadDrift(this.graph.nodes.filter((node) => node.output.some((made) => this.constants.has(made))))
  }

  /** Value of a stored constant or added input in one network. */
  constant(side: Path, name: string): FeedTensor {
    const own = side === 'quantized' ? this.#changed.get(name) : undefined
    const known = own ?? this.#added.get(name) ?? this.#read.get(name)
    if (known) return known
    const { tensor } = this.graph.scope.constants.get(name)!
    const value = feedOfBytes(tensor.dataType, tensor.dims.map(Number), tensorBytes(this.#options.model, tensor))
    this.#read.set(name, value)
    return value
  }

  /** Let go of what was read of a stored constant; it is read again when it is needed. */
  forget(name: string): void {
    this.#read.delete(name)
  }

  /** Value of what does not depend on the batch: as {@link constant}, or made by nodes of constants alone. */
  async batchless(side: Path, name: string): Promise<FeedTensor> {
    if (name.startsWith(ADDED_INPUT) || this.graph.scope.constants.has(name)) return this.constant(side, name)
    const key = `${side} ${name}`
    const known = this.#computed.get(key)
    if (known) return known
    const stage = planStage(this.graph, this.#position, this.#position, [name], this.#stageOptions)
    const session = await this.#open(stage)
    try {
      const value = (await this.#runStage(session, stage, side, 0)).get(name)!
      this.#computed.set(key, value)
      return value
    } finally {
      await session.dispose()
    }
  }

  /**
   * Run both networks up to a cut, on all batches.
   * @throws QtoolError `data` when a node fails on a batch, `interrupted`.
   */
  async advance(to: number): Promise<void> {
    const { graph, onOutput, run } = this.#options
    const { batches, fitBatches } = this
    const from = this.#position
    if (to <= from) return
    const alive = new Set(aliveAt(graph, this.constants, to))
    const made = [...alive].filter((name) => (graph.madeAt.get(name) ?? -1) >= from)
    const results = new Set(graph.outputs)
    const isNeededLater = (name: string) => this.#lastNodeThatReads(name) >= to
    const outputs = to === graph.nodes.length ? graph.outputs.filter((name) => made.includes(name)) : made
    if (outputs.length > 0) {
      const stage = planStage(graph, from, to, outputs, this.#stageOptions)
      this.#spreadDrift(stage.nodes)
      const session = await this.#open(stage)
      const drifts = outputs.some((name) => this.#drifted.has(name))
      const ended = this.#endedAt(to)
      const hasLater = outputs.some(isNeededLater)
      try {
        for (let batch = 0; batch < batches.length; batch++) {
          await nextTurn()
          checkAborted(run.signal)
          const isHeld = batch >= fitBatches
          // The model's own outputs are compared on held-out data alone.
          if (!isHeld && !hasLater) continue
          const float = await this.#runStage(session, stage, 'float', batch, { place: 'float' })
          const quantized = drifts
            ? await this.#runStage(session, stage, 'quantized', batch, { place: 'quantized' })
            : float
          for (const name of ended) this.activations.drop(batch, name)
          for (const name of outputs) {
            if (results.has(name) && isHeld) onOutput?.(name, batch, float.get(name)!, quantized.get(name)!)
            if (!isNeededLater(name)) continue
            this.activations.put('float', batch, name, float.get(name)!)
            if (this.#drifted.has(name)) this.activations.put('quantized', batch, name, quantized.get(name)!)
          }
        }
      } finally {
        await session.dispose()
      }
    }
    this.#leave(to)
  }

  /** Forget what nothing from a cut on needs. */
  #leave(to: number): void {
    for (const name of this.#endedAt(to)) this.activations.end(name, this.batches.length)
    for (const name of this.#changed.keys()) {
      if ((this.constantUses.get(name)?.last ?? Number.POSITIVE_INFINITY) < to) this.#changed.delete(name)
    }
    this.#read.clear()
    this.#computed.clear()
    this.#position = to
  }

  /** Activations made before a cut and not read after it. */
  #endedAt(to: number): string[] {
    const { inputs, madeAt } = this.graph
    const made = [...inputs, ...[...madeAt].flatMap(([name, at]) => (at < to ? [name] : []))]
    return made.filter((name) => this.#lastNodeThatReads(name) < to)
  }

  #lastNodeThatReads(name: string): number {
    const last = this.graph.lastReadAt.get(name) ?? -1
    if (last < this.graph.nodes.length) return last
    return this.graph.nodes.findLastIndex((node) => this.graph.reads.get(node)!.includes(name))
  }

  /** @param nodes in order. */
  #spreadDrift(nodes: readonly NodeProto[]): void {
    for (const node of nodes) {
      const reads = [...this.graph.reads.get(node)!, ...this.#stageOptions.edit(node).input]
      if (reads.some((name) => this.#drifted.has(name))) for (const name of node.output) this.#drifted.add(name)
    }
  }

  async #open(stage: Stage, extend = (bytes: Uint8Array) => bytes): Promise<Session> {
    const { model, graph } = this.#options
    const encoded = encodeStage(model, graph, stage, this.#stageOptions, (name) => {
      const isActivation = stage.inputs.includes(name)
      const { type, dims } = isActivation ? this.activations.shapeOf('float', 0, name) : this.constant('float', name)
      return { dataType: dataTypeOf(type), rank: dims.length }
    })
    return openSession({ bytes: extend(encoded), path: model.path }, CALIBRATION_SESSION)
  }

  async #runStage(
    session: Session,
    stage: Stage,
    side: Path,
    batch: number,
    { values, place }: TrialOptions = {},
  ): Promise<Map<string, FeedTensor>> {
    const feeds = new Map<string, FeedTensor>()
    for (const { name } of session.inputs) {
      const value = values?.get(name)
      if (value) feeds.set(name, value)
      else if (stage.inputs.includes(name)) feeds.set(name, this.get(side, batch, name))
      else feeds.set(name, this.constant(side, name))
    }
    return session.run(feeds, stage.outputs, place)
  }

  /**
   * A stage from here to a later cut that can be run with candidate values, without going on.
   * @param to cut at which the two networks are compared.
   * @param probed other results than what is alive there.
   */
  async openTrial(to: number, probed?: Probed): Promise<Trial> {
    const { graph } = this.#options
    const alive = new Set([...aliveAt(graph, this.constants, to)])
    const made = [...alive].filter((name) => (graph.madeAt.get(name) ?? -1) >= this.#position)
    const planned = planStage(graph, this.#position, to, probed?.reads ?? made, this.#stageOptions)
    // A constant that nodes of the stage do not read is not in its model.
    const stored = (probed?.reads ?? []).filter((name) => graph.scope.constants.has(name))
    const stage = { ...planned, fed: [...new Set([...planned.fed, ...stored])], outputs: probed?.outputs ?? made }
    const session = await this.#open({ ...stage, outputs: planned.outputs }, probed?.extend)
    return {
      run: (side, batch, options) => this.#runStage(session, stage, side, batch, options),
      close: () => session.dispose(),
    }
  }

  close(): void {
    this.activations.close()
  }
}

export interface TrialOptions {
  /** In place of what the network computes with. */
  readonly values?: Values
  /** Results of the last run with the same place may be written over. */
  readonly place?: string
}

/** What a trial computes in place of the results of its part of the network; see probe.ts. */
export interface Probed {
  /** Names in the network that this takes. */
  readonly reads: readonly string[]
  /** The stage's model with other outputs. */
  readonly extend: (bytes: Uint8Array) => Uint8Array
  readonly outputs: readonly string[]
}

export interface Trial {
  /** Everything alive at the trial's end that this part of the network makes, or what was probed. */
  run(side: Path, batch: number, options?: TrialOptions): Promise<Map<string, FeedTensor>>
  close(): Promise<void>
}

/**
 * How sessions of a calibration run. They have all cores, whatever number of threads was asked for: onnxruntime cuts sums
 * up by its threads, so another number would give other bits. Spinning threads of many short-lived sessions would keep
 * the cores from the solver's.
 */
export const CALIBRATION_SESSION: SessionOptions = { threads: 0, config: { 'session.intra_op.allow_spinning': '0' } }
