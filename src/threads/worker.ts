/** @file A worker thread of the pool: loads the job's kernel, then takes units until none is left. */
import { parentPort } from 'node:worker_threads'
import { collectGarbage } from './collect.ts'
import type { RunUnit } from './kernel.ts'
import type { Assignment } from './pool.ts'
import { drainUnits, requestStop } from './units.ts'

const port = parentPort!
const loaded = new Map<string, RunUnit<never>>()

async function load(module: string): Promise<RunUnit<never>> {
  const { runUnit } = (await import(module)) as { runUnit: RunUnit<never> }
  loaded.set(module, runUnit)
  return runUnit
}

port.on('message', async ({ id, work }: Assignment) => {
  try {
    if (work) drainUnits(work, loaded.get(work.module) ?? (await load(work.module)))
    else collectGarbage()
    port.postMessage({ id })
  } catch (error) {
    if (work) requestStop(work.control)
    port.postMessage({ id, error })
  }
})
