/** @file Removes what a killed run left behind: the temporary files beside its output. */
import { readdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'

/**
 * Remove the temporary files and folders of one process beside `output`; their names are `.<name>.<pid>.<random>.tmp`.
 * What cannot be removed is left: the run has failed already, for a reason that says more.
 */
export function removeTemporaries(output: string, pid: number): void {
  const folder = dirname(output)
  const ours = new RegExp(`^\\..*\\.${pid}\\.[^.]+\\.tmp$`, 's')
  try {
    for (const name of readdirSync(folder)) {
      if (ours.test(name)) rmSync(join(folder, name), { recursive: true, force: true })
    }
  } catch {}
}
