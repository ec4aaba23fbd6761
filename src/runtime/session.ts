/**
 * @file Sessions of onnxruntime. This folder is the only importer of onnxruntime-node.
 *
 * The runtime's own log goes to stderr, so it is switched to fatal errors only: everything else that matters is thrown
 * and becomes a QtoolError here.
 */
import * as ort from 'onnxruntime-node'
import type { FeedTensor, ModelInput } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { condenseRuntimeMessage, failedNode } from './message.ts'
import { fromRuntimeTensor, onnxTypeName, toRuntimeTensor } from './tensor.ts'

const FATAL_ONLY = 4
ort.env.logLevel = 'fatal'

/** Where a model comes from: a file, or bytes with the folder that its external data lies in. */
export type SessionSource =
  | string
  | {
      readonly bytes: Uint8Array
      /** Named in messages. */
      readonly path: string
      /** Folder of the external data; needed only when the bytes refer to some. */
      readonly folder?: string
    }

export interface SessionOptions {
  /** Threads within an operator; 0 or absent lets the runtime take one per physical core. */
  readonly threads?: number
  /** Graph optimization; 'all' when absent, as applications run. */
  readonly optimization?: 'disabled' | 'basic' | 'extended' | 'all'
  /** Session configuration entries, for example { 'session.disable_quant_qdq': '1' }. Unknown keys are not noticed. */
  readonly config?: Readonly<Record<string, string>>
  /** Profile the session into `<prefix>_<time>.json`, written by {@link Session.endProfiling}. */
  readonly profilePrefix?: string
}

export interface Session {
  /** As given by the caller, for messages. */
  readonly path: string
  /** As the runtime declares them; a tensor of unknown rank looks like a scalar, []. */
  readonly inputs: readonly ModelInput[]
  /** Outputs that are numeric tensors. */
  readonly outputs: readonly ModelInput[]
  /** Names of outputs that are sequences, maps, strings or packed 4-bit integers, which {@link run} does not return. */
  readonly otherOutputs: readonly string[]
  /**
   * Run the model once. Blocks the event loop while the runtime computes.
   *
   * @param feeds   by input name; entries that are not inputs of the model are ignored. Not modified.
   * @param fetches names of outputs to compute; all numeric ones when absent.
   * @param place   outputs of the last run with the same place may be written over: new memory for large tensors costs as
   *   much as computing them, and the engine does not know when it is time to collect them.
   * @returns outputs by name; their numbers belong to the caller, until the next run with the same place.
   * @throws QtoolError `data` when an input is missing or does not fit, or a node fails on it.
   */
  run(
    feeds: ReadonlyMap<string, FeedTensor>,
    fetches?: readonly string[],
    place?: string,
  ): Promise<Map<string, FeedTensor>>
  /** Write the profile that `profilePrefix` asked for. */
  endProfiling(): void
  /** Free the session. It cannot run afterwards; disposing again does nothing. */
  dispose(): Promise<void>
}

/**
 * Load a model into the runtime.
 * @throws QtoolError `model` when the runtime cannot load it.
 */
export async function openSession(source: SessionSource, options: SessionOptions = {}): Promise<Session> {
  const path = typeof source === 'string' ? source : source.path
  const settings = runtimeOptions(options, typeof source === 'string' ? undefined : source.folder)
  let session: ort.InferenceSession
  try {
    // Two overloads of one function: TypeScript cannot choose between them for a union.
    session =
      typeof source === 'string'
        ? await ort.InferenceSession.create(source, settings)
        : await ort.InferenceSession.create(source.bytes, settings)
  } catch (cause) {
    throw loadError(path, cause)
  }
  return wrapSession(session, path)
}

function runtimeOptions(options: SessionOptions, folder: string | undefined): ort.InferenceSession.SessionOptions {
  const extra: Record<string, string> = { ...options.config }
  if (folder !== undefined) extra['session.model_external_initializers_file_folder_path'] = folder
  return {
    executionProviders: ['cpu'],
    graphOptimizationLevel: options.optimization ?? 'all',
    logSeverityLevel: FATAL_ONLY,
    extra,
    ...(options.threads ? { intraOpNumThreads: options.threads } : {}),
    ...(options.profilePrefix ? { enableProfiling: true, profileFilePrefix: options.profilePrefix } : {}),
  }
}

/** Element types whose numbers JavaScript does not get one by one. */
const NOT_NUMERIC = new Set(['string', 'uint4', 'int4'])

function wrapSession(session: ort.InferenceSession, path: string): Session {
  const inputs = session.inputMetadata.map(describe)
  const declared = session.outputMetadata.map(describe)
  const outputs = declared.filter((o) => o.elementType !== 'other' && !NOT_NUMERIC.has(o.elementType))
  const names = outputs.map((o) => o.name)
  const places = new Map<string, { readonly key: string; readonly tensors: ort.InferenceSession.ReturnType }>()
  const runInPlace = async (given: Readonly<Record<string, ort.Tensor>>, fetches: readonly string[], place: string) => {
    // Equal shapes of all inputs mean equal shapes of all outputs, but for outputs whose shapes depend on values.
    const key = JSON.stringify([fetches, Object.values(given).map(({ dims }) => dims)])
    const known = places.get(place)
    if (known?.key === key) {
      const done = await session.run(given, known.tensors).catch(() => undefined)
      if (done) return known.tensors
    }
    places.delete(place)
    const tensors = await session.run(given, fetches)
    places.set(place, { key, tensors })
    return tensors
  }
  let isOpen = true
  return {
    path,
    inputs,
    outputs,
    otherOutputs: declared.filter((o) => !outputs.includes(o)).map((o) => o.name),
    run: async (feeds, fetches = names, place) => {
      const given: Record<string, ort.Tensor> = {}
      for (const input of inputs) given[input.name] = feedOf(input, feeds, path)
      let results: ort.InferenceSession.ReturnType
      try {
        results = place === undefined ? await session.run(given, fetches) : await runInPlace(given, fetches, place)
      } catch (cause) {
        throw runError(path, cause)
      }
      return new Map(fetches.map((name) => [name, fromRuntimeTensor(results[name] as ort.Tensor)]))
    },
    endProfiling: () => session.endProfiling(),
    dispose: async () => {
      if (isOpen) await session.release()
      isOpen = false
      places.clear()
    },
  }
}

function describe(value: ort.InferenceSession.ValueMetadata): ModelInput {
  if (!value.isTensor) return { name: value.name, elementType: 'other', dims: [] }
  return {
    name: value.name,
    elementType: onnxTypeName(value.type),
    dims: value.shape.map((dim) => (dim === '' ? undefined : dim)),
  }
}

function feedOf(input: ModelInput, feeds: ReadonlyMap<string, FeedTensor>, path: string): ort.Tensor {
  const feed = feeds.get(input.name)
  if (!feed) throw new QtoolError('data', `${path}: input ${input.name} is needed and was not given`)
  if (feed.type !== input.elementType) {
    throw new QtoolError('data', `${path}: input ${input.name} wants ${input.elementType}, got ${feed.type}`)
  }
  try {
    return toRuntimeTensor(feed)
  } catch (cause) {
    throw new QtoolError('data', `${path}: input ${input.name}: ${(cause as Error).message}`, { cause })
  }
}

function loadError(path: string, cause: unknown): QtoolError {
  const raw = cause instanceof Error ? cause.message : String(cause)
  const type = /^Unsupported data type: (\d+)$/.exec(raw)?.[1]
  const reason = type
    ? `an input or output has ONNX element type ${type}, which the runtime does not pass to JavaScript`
    : condenseRuntimeMessage(raw)
  return new QtoolError('model', `${path}: onnxruntime cannot load it: ${reason}`, { cause })
}

function runError(path: string, cause: unknown): QtoolError {
  const raw = cause instanceof Error ? cause.message : String(cause)
  const node = failedNode(raw)
  if (!node) return new QtoolError('data', `${path}: ${condenseRuntimeMessage(raw)}`, { cause })
  const subject = node.name ? `node ${node.name} (${node.operator})` : `a ${node.operator} node`
  return new QtoolError('data', `${path}: ${subject} failed: ${node.reason}`, {
    hint: 'check the shapes and values of the inputs; some models want a fixed batch size, such as 1',
    cause,
  })
}
