/** @file Removes what a killed run left behind: the save layer's temporary files beside an output. */
import { readdirSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'

/**
 * Remove the temporary files of this process beside `output`, `.<name>.<pid>.<random>.tmp`, where the name is that of
 * the output or of its external data. Files that cannot be removed are left: the run has failed already.
 *
 * @returns the paths that were removed.
 */
export function removeTemporaries(output: string, pid: number): string[] {
  const folder = dirname(output)
  let names: string[]
  try {
    names = readdirSync(folder)
  } catch {
    return []
  }
  const removed: string[] = []
  for (const name of names) {
    const ours = name.startsWith(`.${basename(output)}`) && name.includes(`.${pid}.`) && name.endsWith('.tmp')
    if (!ours) continue
    try {
      rmSync(join(folder, name))
      removed.push(join(folder, name))
    } catch {}
  }
  return removed
}
