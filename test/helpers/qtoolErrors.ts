/** @file Catching the errors that are meant for users. */
import { expect } from 'vitest'
import { type ErrorCode, QtoolError } from '../../src/errors.ts'

/** Run `action`, which must throw a QtoolError with this code whose message matches all patterns; returns it. */
export function expectQtoolError(code: ErrorCode, action: () => unknown, ...patterns: (RegExp | string)[]): QtoolError {
  let caught: unknown
  try {
    action()
  } catch (error) {
    caught = error
  }
  expect(caught).toBeInstanceOf(QtoolError)
  const error = caught as QtoolError
  expect(error.code, error.message).toBe(code)
  for (const pattern of patterns) {
    if (typeof pattern === 'string') expect(error.message).toContain(pattern)
    else expect(error.message).toMatch(pattern)
  }
  expect(error.message).not.toMatch(/\n|undefined|\[object/)
  return error
}
