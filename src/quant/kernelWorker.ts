/** @file A worker thread of the pool: takes units of a job until none is left. */
import { parentPort } from 'node:worker_threads'
import type { KernelTask } from './pool.ts'
import { drainUnits } from './units.ts'

const port = parentPort!
port.on('message', ({ id, job, control, results }: KernelTask) => {
  try {
    drainUnits(job, control, results)
    port.postMessage({ id })
  } catch (error) {
    port.postMessage({ id, error })
  }
})
