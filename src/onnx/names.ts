/** @file How messages name things: names from a model quoted and unable to steer a terminal, and whose error it is. */
import { QtoolError } from '../errors.ts'

const LONGEST = 120

/** Control and invisible formatting characters, line and paragraph separators, lone surrogates. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/** `name` in single quotes, unprintable characters as \u{…}, cut after 120 characters. */
export function quoted(name: string): string {
  const characters = [...name.slice(0, 2 * LONGEST)]
  const shown = characters.length > LONGEST ? `${characters.slice(0, LONGEST).join('')}…` : characters.join('')
  return `'${shown.replace(UNPRINTABLE, (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`)}'`
}

/** The same error with `subject` (a file, a node) before its message. */
export function withSubject(subject: string, error: QtoolError): QtoolError {
  const { code, message, hint } = error
  return new QtoolError(code, `${subject}: ${message}`, { cause: error, ...(hint === undefined ? {} : { hint }) })
}
