/** @file Removes what a killed run left behind: temporary files beside what it was to write, and activations. */
import { readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Task } from './task.ts'

/**
 * Remove the temporary files and folders that one process made for a task; their names are `.<name>.<pid>.<random>.tmp`.
 * What cannot be removed is left: the run has failed already, for a reason that says more.
 */
export function removeTemporaries(task: Task, pid: number): void {
  if (task.operation !== 'quantize') return
  const { output, config } = task
  const written = [output, ...config.stats, config.resume].filter((path) => path !== undefined)
  const ours = new RegExp(`^\\..*\\.${pid}\\.[^.]+\\.tmp$`, 's')
  for (const folder of new Set([...written.map((path) => dirname(path)), config.scratch ?? tmpdir()])) {
    try {
      for (const name of readdirSync(folder)) {
        if (ours.test(name)) rmSync(join(folder, name), { recursive: true, force: true })
      }
    } catch {}
  }
}
