/** @file The flags about data, which mean the same to all commands, and those about calibration on them. */
import { Option } from 'commander'
import { QUANTIZE_DEFAULTS } from '../config.ts'
import { valueOption } from './flags.ts'
import { readImageSize, readNumber, readNumberPairs, readNumbers, readPairs, readShare } from './values.ts'

/** For the help text, below the flags. */
export const DATA_KINDS = `Data are .npy, .npz (arrays named like the inputs), .jsonl, .txt (with tokenizer.json beside the model), images,
directories of them, or patterns such as 'photos/*.jpg'.`

/**
 * The flags that say what is read and how it becomes inputs.
 * @param about   what the data are for, in the words of `--data`.
 * @param samples the description of `--samples`, which chooses differently for each command.
 */
export function dataOptions(about: string, samples: string): Option[] {
  return [
    new Option('--data <path...>', about),
    valueOption('--samples <n>', samples, readNumber('--samples')),
    valueOption(
      '--rename <input=array>',
      'the array of the data that feeds an input; repeatable',
      readPairs('--rename', 'INPUT=ARRAY'),
    ),
    valueOption(
      '--set <input=number>',
      'fill an input with a number; repeatable',
      readNumberPairs('--set', 'INPUT=NUMBER'),
    ),
    valueOption('--scale <n>', 'for uint8 images: multiply by this first (1/255 = 0.00392157)', readNumber('--scale')),
    valueOption(
      '--mean <list>',
      'then subtract the mean of each channel, such as 0.485,0.456,0.406',
      readNumbers('--mean'),
    ),
    valueOption('--std <list>', 'then divide by the deviation of each channel', readNumbers('--std')),
    valueOption(
      '--size <pixels>',
      'bring image files to this size: 224, or HEIGHTxWIDTH (default: as the model says)',
      readImageSize('--size'),
    ),
    new Option('--layout <name>', 'axes of the image input: nchw or nhwc (default: seen from its shape)'),
    valueOption(
      '--seq-len <n>',
      'cut text into sequences of n tokens (default: as the model says)',
      readNumber('--seq-len'),
    ),
  ]
}

/** The flags that say how samples are used, where layers are solved on them. */
export function sampleOptions(): Option[] {
  const { holdout, select, damping } = QUANTIZE_DEFAULTS
  return [
    valueOption(
      '--holdout <share>',
      `samples kept apart to decide between candidates, up to 50% (default: ${holdout})`,
      readShare('--holdout'),
    ),
    new Option(
      '--select <name>',
      `which samples: random, or those where rounding hurts, by el2n or kl (default: ${select})`,
    ),
    valueOption(
      '--damping <n>',
      `what steadies a Hessian, relative to its mean diagonal (default: ${damping})`,
      readNumber('--damping'),
    ),
    new Option(
      '--labels <file>',
      'class of each sample: a .npy, or FILE.npz:NAME; for accuracy and losses by labels on the samples kept apart',
    ),
    new Option('--scratch <dir>', 'where activations go that memory cannot hold (default: beside the output)'),
  ]
}

/** Values by flag → by configuration key: `scale`, `mean` and `std` are one key, `size` has another name. */
export function withDataKeys(values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { scale, mean, std, size, ...rest } = values
  const own: Record<string, unknown> = rest
  if (size !== undefined) own.imageSize = size
  const normalize = Object.entries({ scale, mean, std }).filter(([, value]) => value !== undefined)
  if (normalize.length > 0) own.normalize = Object.fromEntries(normalize)
  return own
}
