/**
 * @file The walk: analyze, quantize and evaluate as the stages they consist of. No maths and no printing here.
 */
import { existsSync, mkdirSync } from 'node:fs'
import os from 'node:os'
import { dirname, join } from 'node:path'
import { analyzeLayers, summarize } from './analyze/analyzeLayers.ts'
import { type InferredShape, inferShapes } from './analyze/inferShapes.ts'
import { measureModel, mergedReport } from './analyze/measureModel.ts'
import { openPlans } from './analyze/quantizePlans.ts'
import { openCalibration } from './calibration/openCalibration.ts'
import { scoreSamples } from './calibration/scoreSamples.ts'
import type { AnalyzeConfig, CalibrationConfig, EvalConfig, QuantizeConfig } from './config.ts'
import { resolveAnalyzeConfig, resolveEvalConfig, resolveQuantizeConfig } from './configRules.ts'
import type { Dataset } from './data/dataset.ts'
import { QtoolError } from './errors.ts'
import { evaluate } from './eval/evaluate.ts'
import { openEvaluationData } from './eval/openData.ts'
import { fileSizes } from './onnx/fileSizes.ts'
import { type Layers, modelLayers } from './onnx/layers.ts'
import { loadModel } from './onnx/load.ts'
import type { OnnxModel } from './onnx/model.ts'
import { SourceReader } from './onnx/sourceReader.ts'
import { Temporaries } from './onnx/temporaries.ts'
import type { RunOptions } from './progress.ts'
import { Workspace } from './quant/workspace.ts'
import { dropCheckpoint } from './quantize/calibrate.ts'
import { prepareRsq } from './quantize/prepareRsq.ts'
import { reorderNotes, reorderRows } from './quantize/reorderRows.ts'
import { leftAlone, quantizeReport } from './quantize/report.ts'
import { quantizeWithinBudget } from './quantize/withinBudget.ts'
import { openOutput, writeOutput } from './quantize/writeOutput.ts'
import { type AnalyzeReport, type EvalReport, type QuantizeReport, SCHEMA_VERSION } from './report.ts'
import { createPool } from './threads/pool.ts'
import { VERSION } from './version.ts'

/**
 * Measure every weighted layer of a model: size and round-to-nearest error at each width, and what cannot be quantized.
 * @param path of the .onnx file, which is not changed; undefined only with `merge`.
 * @throws QtoolError `model` when it cannot be read, `usage` for a bad configuration, `interrupted`.
 */
export async function analyzeModel(
  path: string | undefined,
  config: Partial<AnalyzeConfig> = {},
  run: RunOptions = {},
): Promise<AnalyzeReport> {
  const resolved = resolveAnalyzeConfig(config)
  if (resolved.merge.length > 0) return mergedReport(resolved)
  if (path === undefined) throw new QtoolError('usage', 'there is no model')
  const { model, found } = read(path, run)
  const temporaries = new Temporaries()
  const reader = new SourceReader(model)
  const pool = createPool(threadsOf(resolved))
  try {
    const analyses = await analyzeLayers({ model, reader, pool, workspace: new Workspace() }, found, resolved, run)
    const alone = leftAlone(found, [])
    const sizes = fileSizes(model)
    const warnings: string[] = []
    const shapes = await inferShapes(model, found).catch((error: Error) => {
      warnings.push(`multiply-accumulates are counted from declared shapes only: ${error.message}`)
      return new Map<string, InferredShape>()
    })
    const folder = resolved.scratch ?? os.tmpdir()
    const scratch = (name: string) => () => temporaries.reserve(join(folder, name))
    const measured =
      resolved.data.length > 0
        ? await measureModel(
            { model, reader, pool },
            found,
            resolved,
            scratch,
            scoring(
              path,
              resolved,
              roundedStudent(path, resolved, temporaries.reserve(join(folder, 'student')), run),
              run,
            ),
            run,
          )
        : undefined
    const aloneBytes = alone.reduce((sum, entry) => sum + entry.bytes, 0)
    return {
      schemaVersion: SCHEMA_VERSION,
      kind: 'analyze',
      qtoolVersion: VERSION,
      model: { ...sizes, irVersion: Number(model.proto.irVersion), opsets: opsetsOf(model) },
      groupSize: resolved.groupSize,
      ...summarize(found, analyses, shapes, aloneBytes, sizes.totalBytes),
      leftAlone: alone,
      analysis: measured?.report,
      warnings: [...warnings, ...(measured?.warnings ?? [])],
    }
  } finally {
    reader.close()
    temporaries.removeAll()
    await pool.close()
  }
}

/**
 * Quantize a model, from its weights alone or on calibration data.
 * @param path    of the source, which is never changed.
 * @param outPath of the output; undefined only with `dryRun`.
 * @throws QtoolError `usage`, `model`, `output`, `infeasible`, `verify`, `interrupted`. Nothing is left behind then,
 *   except that a model with nothing to quantize is copied byte for byte before `model` is thrown.
 */
export async function quantizeModel(
  path: string,
  outPath: string | undefined,
  config: Partial<QuantizeConfig> = {},
  run: RunOptions = {},
): Promise<QuantizeReport> {
  const started = performance.now()
  const resolved = resolveQuantizeConfig(config)
  const original = read(path, run)
  const temporaries = new Temporaries()
  const output = openOutput(original.model, outPath, resolved, temporaries)
  const reader = new SourceReader(original.model)
  const pool = createPool(threadsOf(resolved))
  // Beside the output, where there is room for the model at least.
  const folder = resolved.scratch ?? (outPath ? dirname(outPath) : os.tmpdir())
  const scratchOf = (name: string) => () => temporaries.reserve(join(folder, name))
  const student = roundedStudent(path, resolved, temporaries.reserve(join(folder, 'student')), run)
  const score = scoring(path, resolved, student, run)
  try {
    const data =
      resolved.data.length > 0
        ? await openCalibration(resolved, original.model, scratchOf('activations'), score)
        : undefined
    const setting = { config: resolved, run, temporaries, source: { reader, pool } }
    const prepared =
      resolved.method === 'rsq'
        ? await prepareRsq(original.model, { ...setting, data: data!, student, scratch: scratchOf('rotated.onnx') })
        : {
            ...(await reorderRows(original, { ...setting, scratch: scratchOf('reordered.onnx') })),
            importance: undefined,
            report: undefined,
          }
    const { model, found } = prepared
    const source = { model, reader, pool }
    const plans = await openPlans(source, found, resolved, data, scratchOf('candidates'), run)
    const subject = { source, found, importance: prepared.importance }
    const made = await quantizeWithinBudget(subject, resolved, output, data, plans.next, run).finally(plans.close)
    // Its threads are not needed any more, and their memory is, for the check.
    await pool.close()
    const notices = [...plans.warnings, ...made.warnings]
    const calibration = made.calibration && {
      ...made.calibration,
      notes: [...made.calibration.notes, ...reorderNotes(made.layers, resolved)],
    }
    const reports = { calibration, allocation: plans.report(), rsq: prepared.report }
    const outcome = { model, found, ...made, notices, sha256: reader.sha256(), ...reports }
    const written = await writeOutput(outcome, output, resolved, run)
    if (!resolved.dryRun) dropCheckpoint(resolved)
    return quantizeReport({ ...outcome, ...written, seconds: (performance.now() - started) / 1000 }, resolved, VERSION)
  } finally {
    reader.close()
    // Closes its file too, which a removed name would keep on the disk.
    output.spool()?.remove()
    temporaries.removeAll()
    await pool.close()
  }
}

/**
 * Compare a candidate with its reference on data.
 * @throws QtoolError `usage`, `model`, `data`, `interrupted`. A missed threshold is not an error: see `passed`.
 */
export async function evaluateModels(
  referencePath: string,
  candidatePath: string,
  config: Partial<EvalConfig>,
  run: RunOptions = {},
): Promise<EvalReport> {
  const resolved = resolveEvalConfig(config)
  const open = openEvaluationData(resolved, referencePath)
  const result = await evaluate(referencePath, candidatePath, open, resolved, run)
  return { schemaVersion: SCHEMA_VERSION, kind: 'eval', qtoolVersion: VERSION, ...result }
}

/** Path of a copy with plainly rounded weights, made in a folder of its own when it is first asked for. */
function roundedStudent(
  path: string,
  config: CalibrationConfig & Partial<Pick<QuantizeConfig, 'bits' | 'groupSize' | 'layers' | 'threads'>>,
  folder: string,
  run: RunOptions,
): () => Promise<string> {
  const rounded = join(folder, 'student.onnx')
  const { bits, groupSize, layers = [], threads = 0 } = config
  return async () => {
    if (existsSync(rounded)) return rounded
    mkdirSync(folder)
    await quantizeModel(path, rounded, { bits, groupSize, layers, threads, method: 'rtn', verify: false }, run)
    return rounded
  }
}

/** Scores samples by what plain rounding at the same widths does to them. */
function scoring(path: string, { select }: CalibrationConfig, student: () => Promise<string>, run: RunOptions) {
  return async (pool: Dataset, batchSize: number): Promise<Float64Array> =>
    scoreSamples(pool, batchSize, path, await student(), select === 'kl' ? 'kl' : 'el2n', run)
}

/** 0 stands for the number of cores. */
function threadsOf({ threads }: { readonly threads: number }): number {
  return threads || os.availableParallelism()
}

function read(path: string, run: RunOptions): { model: OnnxModel; found: Layers } {
  run.onProgress?.({ stage: 'read', done: 0, total: 1, item: path })
  const model = loadModel(path)
  if (!model.proto.graph) throw new QtoolError('model', `${path}: has no graph`)
  return { model, found: modelLayers(model.proto) }
}

function opsetsOf(model: OnnxModel): Record<string, number> {
  return Object.fromEntries(model.proto.opsetImport.map((entry) => [entry.domain || 'ai.onnx', Number(entry.version)]))
}
