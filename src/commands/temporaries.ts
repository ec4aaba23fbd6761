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
  if (task.operation === 'eval') return
  const { config } = task
  const paths =
    task.operation === 'analyze'
      ? [task.config.output]
      : [
          task.output,
          ...task.config.stats,
          task.config.resume,
          task.config.savePlan,
          task.config.pareto,
          task.config.latency,
        ]
  const written = paths.filter((path) => path !== undefined)
  const ours = new RegExp(`^\\..*\\.${pid}\\.[^.]+\\.tmp$`, 's')
  for (const folder of new Set([...written.map((path) => dirname(path)), config.scratch ?? tmpdir()])) {
    try {
      for (const name of readdirSync(folder)) {
        if (ours.test(name)) rmSync(join(folder, name), { recursive: true, force: true })
      }
    } catch {}
  }
}
