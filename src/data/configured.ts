/** @file The data that a configuration names, for calibration and evaluation alike. */
import type { DataConfig } from '../config.ts'
import { type Dataset, openDataset } from './dataset.ts'
import type { ModelInput } from './modelInput.ts'

/**
 * Open it for a model.
 * @param inputs    of the model; see {@link openDataset}.
 * @param modelPath beside which tokenizer and preprocessor files lie.
 * @param more      `labels` where accuracy counts; `pickSeed` where the samples are to be drawn, not the first ones.
 * @throws QtoolError `data`, `usage`.
 */
export function openConfiguredData(
  config: DataConfig,
  inputs: readonly ModelInput[],
  modelPath: string,
  more: { readonly labels?: string | undefined; readonly pickSeed?: number } = {},
): Promise<Dataset> {
  const { data, rename, set, samples, normalize, imageSize, layout, seqLen } = config
  const floats = inputs.filter((input) => ['float', 'float16', 'double'].includes(input.elementType))
  return openDataset(data, inputs, {
    rename,
    samples,
    constants: set,
    modelPath,
    seqLen,
    size: imageSize,
    layout,
    ...(normalize ? { normalize: Object.fromEntries(floats.map((input) => [input.name, normalize])) } : {}),
    ...more,
  })
}
