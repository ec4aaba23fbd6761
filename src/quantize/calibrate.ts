/** @file Quantization on data or on saved statistics, with what is saved on the way: statistics and checkpoints. */
import fs from 'node:fs'
import { openCheckpoint } from '../calibration/checkpoint.ts'
import { dataFingerprint, modelFingerprint, settingsFingerprint } from '../calibration/fingerprint.ts'
import type { CalibrationData } from '../calibration/openCalibration.ts'
import { createStatistics, type StatisticsWriter } from '../calibration/statsFile.ts'
import type { QuantizeConfig } from '../config.ts'
import { modelFilePlaces } from '../data/modelFolder.ts'
import { listFiles } from '../data/paths.ts'
import { QtoolError } from '../errors.ts'
import type { OnnxModel } from '../onnx/model.ts'
import type { Temporaries } from '../onnx/temporaries.ts'
import type { RunOptions } from '../progress.ts'
import { VERSION } from '../version.ts'
import { type CalibratedLayers, type CalibrationTask, calibrateLayers } from './calibratedLayers.ts'
import { methodSettings } from './metadata.ts'
import { SolvedLayers } from './solvedLayers.ts'
import { layersFromStatistics } from './statisticsLayers.ts'

/**
 * Quantize on what the configuration names.
 * @param data undefined: `config.stats` has the statistics.
 * @throws QtoolError `usage` when statistics are to be written over existing ones; and as {@link calibrateLayers}.
 */
export async function calibrate(
  task: CalibrationTask,
  data: CalibrationData | undefined,
  temporaries: Temporaries,
  run: RunOptions,
): Promise<CalibratedLayers> {
  if (!data) return layersFromStatistics(task, run)
  const { config, source } = task
  const statistics = newStatistics(task, data, temporaries)
  const checkpoint =
    config.resume === undefined
      ? undefined
      : openCheckpoint(config.resume, {
          version: VERSION,
          model: modelFingerprint(source.model),
          data: fingerprintOf(config, source.model.path),
          plan: settingsFingerprint(
            Object.fromEntries(
              task.plans.map(({ layer, bits, groupSize, symmetric }) => [
                layer.name,
                `${bits} bits, groups of ${groupSize}, symmetric ${symmetric}`,
              ]),
            ),
          ),
          settings: settingsFingerprint({
            ...dataSettings(config),
            damping: config.damping,
            ...methodSettings(config),
          }),
        })
  try {
    const solved = new SolvedLayers(config, task.sink, checkpoint)
    const made = await calibrateLayers(task, data, { statistics, solved }, run)
    statistics?.finish()
    return made
  } finally {
    statistics?.discard()
    checkpoint?.close()
  }
}

/** Delete the checkpoint, once its run is complete: the output is written, or the plan was given up. */
export function dropCheckpoint({ resume }: QuantizeConfig): void {
  if (resume !== undefined) fs.rmSync(resume, { force: true })
}

/** What statistics and sensitivities depend on. @param more settings besides those of the data. */
export function calibrationFingerprint(
  config: DataSettings & Pick<QuantizeConfig, 'data'>,
  model: OnnxModel,
  more: Readonly<Record<string, unknown>> = {},
): { readonly model: string; readonly data: string; readonly settings: string } {
  return {
    model: modelFingerprint(model),
    data: fingerprintOf(config, model.path),
    settings: settingsFingerprint({ ...dataSettings(config), ...more }),
  }
}

/** Files that turn text and images into numbers are part of the data. */
function fingerprintOf({ data }: Pick<QuantizeConfig, 'data'>, model: string): string {
  const beside = ['tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json']
  const found = beside.flatMap((name) => modelFilePlaces(model, name).find((place) => fs.existsSync(place)) ?? [])
  return dataFingerprint([...listFiles(data), ...found])
}

type DataSettings = Pick<
  QuantizeConfig,
  'samples' | 'holdout' | 'select' | 'seqLen' | 'rename' | 'set' | 'normalize' | 'imageSize' | 'layout' | 'seed'
>

/** Settings that the statistics depend on, besides the data itself. */
function dataSettings(config: DataSettings): Record<string, unknown> {
  const { samples, holdout, select, seqLen, rename, set, normalize, imageSize, layout, seed } = config
  return { samples, holdout, select, seqLen, rename, set, normalize, imageSize, layout, seed }
}

function newStatistics(
  { config, source }: CalibrationTask,
  data: CalibrationData,
  temporaries: Temporaries,
): StatisticsWriter | undefined {
  const [path, ...others] = config.stats
  if (path === undefined || config.dryRun) return undefined
  if (others.length > 0 || fs.existsSync(path)) {
    const found = others.length > 0 ? `${config.stats.length} files` : `${path}, which exists`
    throw new QtoolError('usage', `with data, statistics are written: wanted one new file, found ${found}`, {
      hint: 'leave out --data to quantize on saved statistics, or name another file',
    })
  }
  const fingerprint = {
    ...calibrationFingerprint(config, source.model),
    samples: data.fit.count,
    heldOut: data.held.count,
  }
  return createStatistics(path, fingerprint, temporaries)
}
