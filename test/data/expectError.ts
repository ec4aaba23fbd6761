/** @file Errors are compared by code; the message must name its subject. */
import { expect } from 'vitest'
import { type ErrorCode, QtoolError } from '../../src/errors.ts'

/** @param subject what the message or the hint must mention. */
export function expectError(action: () => unknown, code: ErrorCode, ...subject: string[]): void {
  let error: unknown
  try {
    action()
  } catch (thrown) {
    error = thrown
  }
  expect(error, 'an error').toBeInstanceOf(QtoolError)
  const { code: found, message, hint } = error as QtoolError
  expect({ code: found, message }).toMatchObject({ code })
  for (const word of subject) expect(`${message}\n${hint}`).toContain(word)
}

/** Like {@link expectError}, for actions that end later. */
export async function expectRejection(
  action: () => Promise<unknown>,
  code: ErrorCode,
  ...subject: string[]
): Promise<void> {
  const failure = await action().then(
    () => undefined,
    (error: unknown) => ({ error }),
  )
  expectError(
    () => {
      if (failure) throw failure.error
    },
    code,
    ...subject,
  )
}

/** The action either succeeds or throws QtoolError `data`. */
export function onlyDataErrors(action: () => unknown): void {
  try {
    action()
  } catch (error) {
    if (!(error instanceof QtoolError) || error.code !== 'data') throw error
  }
}

/** Bytes of array buffers that an action leaves allocated or garbage, at least. */
export function allocatedBy(action: () => void): number {
  const before = process.memoryUsage().arrayBuffers
  action()
  return process.memoryUsage().arrayBuffers - before
}
