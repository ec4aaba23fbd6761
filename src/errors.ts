/** @file The one error class of qtool. Imports nothing, so that every folder may throw it. */

/**
 * What went wrong, in the user's terms. `src/commands/exit.ts` maps each code to a process exit code.
 *
 * - `usage`       a flag, option or configuration value is wrong
 * - `output`      the output exists, equals the input, or cannot be written (permission, disk full)
 * - `model`       the model is unreadable, corrupt, unsupported, or has nothing to quantize
 * - `data`        calibration or evaluation data is missing, unreadable, or does not fit the model
 * - `numeric`     a computation had no usable result (only where a fallback was forbidden)
 * - `infeasible`  no configuration meets the budget
 * - `verify`      the written model does not compute what was decided (our bug, or the runtime's)
 * - `interrupted` the caller aborted
 */
export type ErrorCode = 'usage' | 'output' | 'model' | 'data' | 'numeric' | 'infeasible' | 'verify' | 'interrupted'

/** An error meant for the user: the message says subject, what was wanted and what was found; the hint says what to do. */
export class QtoolError extends Error {
  readonly code: ErrorCode
  readonly hint: string | undefined

  constructor(code: ErrorCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'QtoolError'
    this.code = code
    this.hint = options.hint
  }
}
