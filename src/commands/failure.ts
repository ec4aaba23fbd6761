/** @file Turns an error into what the user reads and the exit code that the shell sees. */
import type { CommanderError } from 'commander'
import { type ErrorCode, QtoolError } from '../errors.ts'
import { SCHEMA_VERSION } from '../report.ts'
import { exitCodeOf } from './exit.ts'
import { writeJson, writeNotice } from './terminal.ts'

interface Failure {
  readonly code: ErrorCode | 'internal'
  readonly exitCode: number
  readonly message: string
  readonly hint: string | undefined
}

/**
 * Report an error: message and hint on stderr, and with `json` an error document on stdout. Stack traces are for
 * developers, who set QTOOL_DEBUG.
 * @returns the exit code.
 */
export function reportFailure(error: unknown, json: boolean): number {
  const { code, exitCode, message, hint } = describeFailure(error)
  if (json) writeJson({ schemaVersion: SCHEMA_VERSION, kind: 'error', code, exitCode, message, hint })
  writeNotice('error', message)
  if (hint !== undefined) writeNotice('hint', hint)
  if (process.env.QTOOL_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  return exitCode
}

function describeFailure(error: unknown): Failure {
  if (error instanceof QtoolError) {
    const { code, message, hint } = error
    return { code, exitCode: exitCodeOf(code), message, hint }
  }
  if (isCommanderError(error)) {
    // commander says "error: unknown option '--bitz'\n(Did you mean --bits?)"
    const [message, ...suggestion] = error.message.replace(/^error: /, '').split('\n')
    const meant = suggestion.join(' ').replace(/^\(|\)$/g, '')
    const help = '`qtool --help` and `qtool COMMAND --help` list what there is'
    return {
      code: 'usage',
      exitCode: exitCodeOf('usage'),
      message: message!,
      hint: meant === '' ? help : `${meant} ${help}`,
    }
  }
  const message = error instanceof Error ? error.message : String(error)
  return {
    code: 'internal',
    exitCode: exitCodeOf(undefined),
    message: `internal error: ${message}`,
    hint: 'please report this with the command line and, if you can, the model; QTOOL_DEBUG=1 shows where it happened',
  }
}

/** Commander's class is not imported as a value: its errors carry their own mark. */
function isCommanderError(error: unknown): error is CommanderError {
  return error instanceof Error && 'code' in error && String(error.code).startsWith('commander.')
}
