/** @file Runs qtool as a process of its own, the built one or the one with a fake pipeline. */
import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
export const BUILT = [fileURLToPath(new URL('../../dist/bin/qtool.js', import.meta.url))]
/** Operations are done by fakeWorker.ts. */
export const FAKE = ['--import', 'tsx', fileURLToPath(new URL('./fakeQtool.ts', import.meta.url))]

export interface Ending {
  readonly code: number | null
  readonly signal: string | null
  readonly stdout: string
  readonly stderr: string
}

/**
 * Run to the end, in the repository's root, without a terminal.
 * @param during called once the process runs, to send signals or close pipes.
 */
export function runQtool(
  program: readonly string[],
  args: readonly string[],
  during: (child: ChildProcess) => void = () => {},
  env: NodeJS.ProcessEnv = {},
): Promise<Ending> {
  const child = spawn(process.execPath, [...program, ...args], { cwd: ROOT, env: { ...process.env, ...env } })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    stderr += chunk
  })
  during(child)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}
