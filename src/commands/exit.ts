/** @file What each outcome means to the shell; docs/CI.md explains them to users. The only place that knows exit codes. */
import type { ErrorCode } from '../errors.ts'

export const EXIT_DONE = 0
export const EXIT_THRESHOLD_MISSED = 1
export const EXIT_USAGE = 2
const EXIT_INTERNAL = 70
const EXIT_INTERRUPTED = 130

const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  usage: EXIT_USAGE,
  output: EXIT_USAGE,
  model: 3,
  data: 4,
  numeric: 5,
  infeasible: 6,
  verify: EXIT_INTERNAL,
  interrupted: EXIT_INTERRUPTED,
}

/** The process exit code of an error code; an error without one is our bug. */
export function exitCodeOf(code: ErrorCode | undefined): number {
  return code === undefined ? EXIT_INTERNAL : EXIT_CODES[code]
}
