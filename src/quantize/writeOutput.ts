/**
 * @file The end of a quantization: build the model, write it beside its final name, let onnxruntime check it, rename it.
 */
import fs from 'node:fs'
import type { QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import { stageCopy } from '../onnx/copyModel.ts'
import { INLINE_LIMIT, type OnnxModel, type Payload } from '../onnx/model.ts'
import { checkOutput } from '../onnx/outputFiles.ts'
import { stageModel } from '../onnx/save.ts'
import { Spool } from '../onnx/spool.ts'
import type { Temporaries } from '../onnx/temporaries.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import type { FileSizes } from '../report.ts'
import { verifyWritten } from '../verify/verify.ts'
import { VERSION } from '../version.ts'
import { type BuiltOutput, buildOutput } from './buildOutput.ts'
import { decodedAtLoad, expandInPlace } from './expandModel.ts'
import { outputSize, placement } from './outputSize.ts'
import { planWarnings } from './planModel.ts'
import type { QuantizeOutcome } from './report.ts'

/** Where the bytes of new tensors go while the model is being quantized. */
export interface Output {
  /** Undefined for a dry run without a name. */
  readonly path: string | undefined
  readonly temporaries: Temporaries
  /** Keeps or writes the bytes; the caller's array may change afterwards. */
  readonly sink: (bytes: Uint8Array) => Payload
  /** The spool, once something was written to it. */
  readonly spool: () => Spool | undefined
  /** Forget what the sink was given so far. */
  readonly restart: () => void
}

/**
 * Check that the output can be written, before any work is done.
 * @throws QtoolError `usage` without a path, `output` when it exists, is the source, or has no directory.
 */
export function openOutput(
  source: OnnxModel,
  path: string | undefined,
  config: QuantizeConfig,
  temporaries: Temporaries,
): Output {
  // Copied: the bytes may lie in buffers that the next layer takes over.
  const small = (bytes: Uint8Array): Payload => ({ kind: 'memory', byteLength: bytes.length, bytes: bytes.slice() })
  if (config.dryRun) {
    const sink = (bytes: Uint8Array): Payload =>
      bytes.length <= INLINE_LIMIT ? small(bytes) : { kind: 'planned', byteLength: bytes.length }
    return { path, temporaries, sink, spool: () => undefined, restart: () => {} }
  }
  if (path === undefined) {
    throw new QtoolError('usage', 'no output path was given', { hint: 'name one, or ask for a dry run' })
  }
  checkOutput([path], { force: config.force, sources: source.files.map((file) => file.path) })
  let spool: Spool | undefined
  const sink = (bytes: Uint8Array): Payload => {
    if (bytes.length <= INLINE_LIMIT) return small(bytes)
    spool ??= new Spool(path, temporaries)
    return spool.append(bytes)
  }
  const restart = () => {
    spool?.remove()
    spool = undefined
  }
  return { path, temporaries, sink, spool: () => spool, restart }
}

type Written = Pick<QuantizeOutcome, 'output' | 'loading' | 'expandedBytes' | 'verified' | 'warnings'>
type Unwritten = Omit<QuantizeOutcome, keyof Written | 'seconds'>

/** Write, verify and rename; or only measure, in a dry run. */
export async function writeOutput(
  outcome: Unwritten,
  output: Output,
  config: QuantizeConfig,
  run: RunOptions,
): Promise<Written> {
  const { model, plan, layers, biases } = outcome
  const warnings = [...planWarnings(plan), ...outcome.notices]
  if (config.strict && warnings.length > 0) {
    throw new QtoolError('usage', `--strict: ${warnings[0]}`, { hint: 'leave out --strict to accept it' })
  }
  if (plan.plans.length === 0) {
    const loading = { transientBytes: 0, compactBytes: undefined }
    const copied = nothingToQuantize(outcome, output, config, run)
    return { output: copied, loading, expandedBytes: undefined, verified: [], warnings }
  }
  const provenance = { version: VERSION, sha256: outcome.sha256.map(({ sha256 }) => sha256) }
  const build = (expand: boolean) =>
    buildOutput(model, layers, biases, plan.target, { ...plan.settled, expand }, provenance)
  const built = build(config.expand)
  const compactBytes = config.expand
    ? outputSize(build(false).model, model, config.externalData, output.path).totalBytes
    : undefined
  checkAborted(run.signal)
  const { spool, ...form } = await asWritten(built, outcome, compactBytes, output, config, run)
  if (config.dryRun) {
    const sizes = outputSize(built.model, model, config.externalData, output.path)
    return { output: { path: output.path ?? '', ...sizes }, ...form, verified: undefined, warnings }
  }

  const staged = stageModel(built.model.proto, built.model.payloads, output.path!, {
    externalData: placement(model, config.externalData),
    force: config.force,
    sources: model.files.map((file) => file.path),
    temporaries: output.temporaries,
    ...(spool ? { spool } : {}),
    ...run,
  })
  const references = new Map(
    layers.flatMap((layer) => (layer.reference ? [[layer.plan.layer.name, layer.reference] as const] : [])),
  )
  const verified = config.verify
    ? await verifyWritten(
        { path: staged.path, shownAs: output.path!, source: model.path },
        built.written,
        references,
        config.threads,
        run,
      )
    : undefined
  checkAborted(run.signal)
  staged.commit()
  const stale = `${output.path}_data`
  if (staged.files.length === 1 && fs.existsSync(stale))
    warnings.push(`${stale} is of an earlier model: nothing refers to it`)
  return { output: sizesOf(output.path!, staged.files), ...form, verified, warnings }
}

/** Unpacks the model, where that is asked for; says what loading takes, and where new tensors lie. */
async function asWritten(
  { model: built }: BuiltOutput,
  { layers }: Unwritten,
  compactBytes: number | undefined,
  output: Output,
  config: QuantizeConfig,
  run: RunOptions,
): Promise<Pick<Written, 'loading' | 'expandedBytes'> & { readonly spool: Spool | undefined }> {
  const transientBytes = decodedAtLoad(built).intermediateBytes
  const loading = { transientBytes, compactBytes }
  if (!config.expand) return { loading, expandedBytes: undefined, spool: output.spool() }
  // A spool of its own, so that it holds nothing but what is written.
  const spool = config.dryRun ? undefined : new Spool(output.path!, output.temporaries)
  const store = (bytes: Uint8Array) => spool!.append(bytes)
  try {
    const bytesOf = await expandInPlace(built, { decode: !config.dryRun, store, threads: config.threads }, run)
    output.restart()
    const expandedBytes = layers.map((_, i) => bytesOf.get(String(i)) ?? 0)
    return { loading, expandedBytes, spool }
  } catch (error) {
    spool?.remove()
    throw error
  }
}

function sizesOf(path: string, files: readonly { path: string; bytes: number }[]): FileSizes {
  return { path, totalBytes: files.reduce((sum, file) => sum + file.bytes, 0), files }
}

/**
 * The output is the source, byte for byte. Where the user skipped every layer that is what was asked for; otherwise it
 * is an error after the copy, so that a pipeline notices.
 */
function nothingToQuantize(outcome: Unwritten, output: Output, config: QuantizeConfig, run: RunOptions): FileSizes {
  const { model, found, plan } = outcome
  let files = model.files.map(({ path, bytes }) => ({ path, bytes }))
  if (!config.dryRun) {
    const staged = stageCopy(model, output.path!, { force: config.force, temporaries: output.temporaries, ...run })
    staged.commit()
    files = staged.files.map(({ path, bytes }) => ({ path, bytes }))
  }
  const asked = plan.skipped.length > 0 && plan.skipped.every(({ byUser }) => byUser)
  if (!asked) {
    const copied = config.dryRun ? '' : `; ${output.path} is a copy of it, byte for byte`
    throw new QtoolError('model', `${model.path}: nothing to quantize${copied}`, { hint: whyNothing(found, plan) })
  }
  return sizesOf(output.path ?? '', files)
}

function whyNothing(found: Unwritten['found'], plan: Unwritten['plan']): string {
  if (found.quantizedNodes.length > 0) {
    const example = found.quantizedNodes[0]!.node
    return `it is quantized already: ${found.quantizedNodes.length} nodes such as ${example.opType}; start from the float model`
  }
  if (plan.skipped.length > 0)
    return `${plan.skipped.length} weighted layers stay as they are: ${plan.skipped[0]!.reason}`
  return 'it has no weighted layer; `qtool analyze` lists its tensors'
}
