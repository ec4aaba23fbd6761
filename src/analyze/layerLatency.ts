/**
 * @file The predicted latency of a quantized model, for `--max-latency`: that of everything but the products with weights, plus for
 * each such product the time of the kernel that runs it. What widths do not change (convolutions, recurrent layers, lookups, products of
 * decoded weights in other forms) is no product here: it is in the rest, for the float model and the quantized one alike.
 *
 * Kernels are timed one by one, outside the network, so a prediction is good for choosing between widths rather than for
 * promising milliseconds; `qtool eval` measures the result. `latencyConstraint.ts` makes a constraint of it.
 */
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { type Kernel, kernelName, kernelsOf, type ProductShape } from '../eval/kernelLatency.ts'
import { median } from '../eval/latency.ts'
import {
  distinctRequests,
  type LatencyEntry,
  type LatencyRequest,
  type LatencyTable,
  measureTable,
  secondsOf,
} from '../eval/latencyTable.ts'
import { rooflineTable } from '../eval/roofline.ts'
import { indexModel, nodesOf } from '../onnx/graph.ts'
import type { WeightUse } from '../onnx/layers.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { DataType } from '../onnx/proto.ts'
import { declaredShape } from '../onnx/valueShapes.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'
import { openSession } from '../runtime/session.ts'
import type { InferredShape } from './inferShapes.ts'
import type { LatencyTimes, ModelTime } from './latencyFile.ts'
import type { LayerOptions } from './measuredLayers.ts'

export interface LatencyQuestion {
  readonly model: OnnxModel
  readonly layers: readonly LayerOptions[]
  /** Rows of a product (batch times sequence) where the model leaves them open, at least 1. */
  readonly positions: number
  /** As asked for. */
  readonly accuracyLevel: 0 | 4
  /** Of onnxruntime within an operator; 0 for one per core. */
  readonly threads: number
  /** Of the main graph's values, where they are known beyond what the model declares. */
  readonly shapes?: ReadonlyMap<string, InferredShape>
  /** One run's inputs, with `positions` tokens, from which the rest is measured; absent where none are known. */
  readonly feeds?: ReadonlyMap<string, FeedTensor> | undefined
  /** Known times; measured on this machine when absent. */
  readonly times?: LatencyTimes | undefined
}

export interface LayerLatencies {
  /** Seconds per layer as float. */
  readonly float: readonly number[]
  /** Seconds [layer][option]. */
  readonly options: readonly (readonly number[])[]
  /** Seconds of everything else in the float model; 0 where it is not known, with a note. */
  readonly rest: number
  readonly source: LatencyTable['source']
  /** What this was computed from, to be kept. */
  readonly times: LatencyTimes
  /** What is less than was asked for. */
  readonly notes: readonly string[]
}

/** A use of a weight that widths have an effect on. */
interface Product {
  /** Place among the layer's uses. */
  readonly use: number
  readonly shape: ProductShape
}

const FLOAT: Kernel = { form: 'float' }

/**
 * Latencies of all layers as float and at each option.
 *
 * @throws QtoolError `usage` when known times lack one that is needed; otherwise as measuring and running do
 * @throws RangeError when positions is no whole number from 1 on
 */
export async function layerLatencies(question: LatencyQuestion, run: RunOptions = {}): Promise<LayerLatencies> {
  const { model, layers, positions, accuracyLevel, threads, feeds } = question
  if (!Number.isSafeInteger(positions) || positions < 1) throw new RangeError(`${positions} positions`)
  const products = layers.map((layer) => productsOf(layer, question))
  const kernels = layers.map(({ options }) => options.map(({ plan }) => kernelsOf(plan, accuracyLevel)))
  const requests = products.flatMap((own, l) =>
    own.map(({ use, shape }): LatencyRequest => ({ shape, kernels: kernels[l]!.map((uses) => uses[use]!) })),
  )
  const structure = structureOf(model)
  const times = question.times ?? (await measureTimes())
  const table = times.kind === 'roofline' ? rooflineTable(times.machine, requests) : times.table
  const seconds = lookup(table)

  const sum = (own: readonly Product[], kernelFor: (use: number) => Kernel) =>
    own.reduce((total, { use, shape }) => total + seconds(shape, kernelFor(use)), 0)
  const float = products.map((own) => sum(own, () => FLOAT))
  const options = products.map((own, l) => kernels[l]!.map((uses) => sum(own, (use) => uses[use]!)))
  const whole =
    times.kind === 'measured'
      ? times.models.find((known) => known.structure === structure && known.positions === positions)?.seconds
      : undefined
  const inProducts = float.reduce((total, own) => total + own, 0)
  const notes = [...restNotes(times, whole, inProducts), ...productNotes(question, products, kernels)]
  if (times.kind === 'measured' && table.threads !== threads) {
    notes.push(`latencies are those with ${threadsText(table.threads)}, not with ${threadsText(threads)}`)
  }
  return { float, options, rest: Math.max(0, (whole ?? 0) - inProducts), source: table.source, times, notes }

  async function measureTimes(): Promise<LatencyTimes> {
    const entries: LatencyEntry[] = []
    let machine = ''
    const distinct = distinctRequests(requests)
    for (const [done, request] of distinct.entries()) {
      const item = productText(request.shape)
      run.onProgress?.({ stage: 'measure', done, total: distinct.length, item, detail: 'latency' })
      const part = await measureTable([request], { threads }, run)
      entries.push(...part.entries)
      machine = part.machine
    }
    const models: ModelTime[] = []
    if (feeds) models.push({ structure, positions, seconds: await measureModel(model, feeds, threads, run) })
    return { kind: 'measured', table: { machine, threads, source: 'measured', entries }, models }
  }
}

function productsOf({ layer }: LayerOptions, question: LatencyQuestion): Product[] {
  const { outer, reduction, inner } = layer.view
  return layer.uses.flatMap((use, i) => {
    if (use.kernel !== 'matmul') return []
    return [{ use: i, shape: { rows: outer * inner, cols: reduction, positions: positionsOf(use, question) } }]
  })
}

/**
 * Rows of activations that a product has: those of its output's shape where that is fixed, for one sample where only the batch is open
 * and a sample has several; else as asked for.
 */
function positionsOf({ scope, node }: WeightUse, { positions, shapes }: LatencyQuestion): number {
  const output = node.output[0]!
  const isMain = !scope.parent && !scope.fn
  const shape = (isMain ? shapes?.get(output) : undefined) ?? declaredShape(scope, output)
  // No dimensions at all: the runtime does not know how many there are.
  if (!shape || shape.length === 0) return positions
  const [first, ...others] = shape.slice(0, -1)
  if (!others.every((dim) => typeof dim === 'number')) return positions
  const perSample = others.reduce((total, dim) => total * dim, 1)
  if (shape.length === 1) return 1
  if (typeof first === 'number') return Math.max(1, first * perSample)
  return perSample > 1 ? perSample : positions
}

function lookup(table: LatencyTable): (shape: ProductShape, kernel: Kernel) => number {
  const known = new Map<string, number>()
  return (shape, kernel) => {
    const key = `${shape.rows} ${shape.cols} ${shape.positions} ${kernelName(kernel)}`
    const seconds = known.get(key) ?? secondsOf(table, shape, kernel)
    if (seconds === undefined) {
      throw new QtoolError(
        'usage',
        `the latencies of ${table.machine} lack ${productText(shape)}, ${kernelName(kernel)}`,
        {
          hint: 'they are of other layers, candidates or positions: name a file that does not exist yet, to measure these',
        },
      )
    }
    known.set(key, seconds)
    return seconds
  }
}

const WARM_UP_RUNS = 2
const RUNS = 15
/** Runs of the float model end after this long, milliseconds, when one has counted. */
const TIME_LIMIT = 20_000

/** Median seconds of a run of the float model. */
async function measureModel(
  model: OnnxModel,
  feeds: ReadonlyMap<string, FeedTensor>,
  threads: number,
  { signal }: RunOptions,
): Promise<number> {
  // The runtime looks for external data beside what it is given.
  const file = model.dataDirectory === undefined ? model.path : fs.realpathSync(model.path)
  const session = await openSession(file, { threads })
  try {
    const times: number[] = []
    const begin = performance.now()
    for (let run = -WARM_UP_RUNS; run < RUNS; run++) {
      await nextTurn()
      checkAborted(signal)
      if (performance.now() - begin > TIME_LIMIT && times.length > 0) break
      const start = performance.now()
      await session.run(feeds)
      if (run >= 0) times.push((performance.now() - start) / 1000)
    }
    return median(times)
  } finally {
    await session.dispose()
  }
}

/** A digest of nodes and of weights' shapes: models that differ in their weights alone take the same time. */
function structureOf({ proto }: OnnxModel): string {
  const hash = createHash('sha256')
  for (const scope of indexModel(proto).scopes) {
    for (const { opType, domain, input, output } of nodesOf(scope)) {
      hash.update(JSON.stringify([opType, domain, input, output]))
    }
    for (const { name, tensor } of scope.constants.values()) {
      hash.update(JSON.stringify([name, tensor.dataType, tensor.dims.map(Number)]))
    }
  }
  return hash.digest('hex')
}

function restNotes(times: LatencyTimes, whole: number | undefined, inProducts: number): string[] {
  const alone = 'the latency is that of the products of quantized layers alone'
  if (times.kind === 'roofline') return [`a roofline says nothing of other operators: ${alone}`]
  if (whole === undefined) return [`how long the float model takes is not known: ${alone}`]
  if (whole >= inProducts) return []
  return [`the float model runs faster than its products do one by one: ${alone}`]
}

function productNotes(
  { layers }: LatencyQuestion,
  products: readonly (readonly Product[])[],
  kernels: readonly (readonly (readonly Kernel[])[])[],
): string[] {
  const notes: string[] = []
  const inBodies = layers.filter(({ layer }, l) => products[l]!.some(({ use }) => layer.uses[use]!.scope.parent))
  if (inBodies.length > 0) notes.push(`${count(inBodies.length)} in loops or branches: counted as if run once`)
  const others = layers.filter(({ layer }, l) =>
    products[l]!.some(({ use }) => layer.uses[use]!.dataType !== DataType.FLOAT),
  )
  if (others.length > 0) notes.push(`${count(others.length)} of another type than float32: timed as float32`)
  const decoded = layers.filter(({ options }, l) =>
    options.some(({ plan }, k) =>
      plan.uses.some((use, i) => use === 'DequantizeLinear' && kernels[l]![k]![i]!.form === 'float'),
    ),
  )
  if (decoded.length > 0) notes.push(`${count(decoded.length)} that DequantizeLinear decodes in every run: not counted`)
  return notes
}

function count(layers: number): string {
  return `${layers} ${layers === 1 ? 'layer' : 'layers'}`
}

function productText({ rows, cols, positions }: ProductShape): string {
  return `[${positions}, ${cols}] × [${cols}, ${rows}]`
}

function threadsText(threads: number): string {
  return threads === 0 ? 'one thread per core' : `${threads} ${threads === 1 ? 'thread' : 'threads'}`
}
