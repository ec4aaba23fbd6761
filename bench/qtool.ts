/** @file Run the built command line tool and read the JSON document that it prints. */
import type { AnalyzeReport, EvalReport, QuantizeReport } from '../src/report.ts'
import { type Measured, runMeasured } from './measure.ts'
import { requireCli } from './paths.ts'

/** The tool ended with another exit status than 0. */
export class QtoolFailure extends Error {
  constructor(operation: string, { status, stderr }: Measured, limitSeconds: number) {
    const line = stderr.split('\n').find((text) => text.trim() !== '')
    super(
      status === undefined
        ? `${operation}: stopped after ${limitSeconds} s`
        : `${operation}: exit ${status}: ${line ?? 'nothing on stderr'}`,
    )
  }
}

async function run<Report>(operation: string, options: readonly string[], limitSeconds: number): Promise<Report> {
  const command = [process.execPath, requireCli(), operation, ...options, '--json']
  const measured = await runMeasured(command, limitSeconds)
  if (measured.status !== 0) throw new QtoolFailure(operation, measured, limitSeconds)
  return JSON.parse(measured.stdout) as Report
}

/** @throws QtoolFailure */
export function quantize(options: readonly string[], limitSeconds: number): Promise<QuantizeReport> {
  return run('quantize', options, limitSeconds)
}

/** @throws QtoolFailure. Infinite SQNR is null in the document. */
export function evaluate(options: readonly string[], limitSeconds: number): Promise<EvalReport> {
  return run('eval', options, limitSeconds)
}

/** @throws QtoolFailure */
export function analyze(options: readonly string[], limitSeconds: number): Promise<AnalyzeReport> {
  return run('analyze', options, limitSeconds)
}
