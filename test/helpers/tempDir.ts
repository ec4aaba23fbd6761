/** @file A scratch directory for the tests of one file, removed when they are done. */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll } from 'vitest'

/** Call it at the top of a test file. */
export function useTempDir(): string {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'qtool-test-')))
  afterAll(() => fs.rmSync(directory, { recursive: true, force: true }))
  return directory
}
