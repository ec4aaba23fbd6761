/**
 * @file Worker threads for numeric kernels. They start with the first job that has work for two, and live until the
 * pool is closed. One thread, or one unit, runs on the caller's thread.
 */
import { setImmediate } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { checkAborted } from '../progress.ts'
import { collectGarbage } from './collect.ts'
import type { Kernel, Task } from './kernel.ts'
import { newControl, requestStop, takeUnit, type Units } from './units.ts'

export interface KernelPool {
  readonly threads: number
  /**
   * Do all units of a job. Jobs may overlap.
   * @returns the sums of every unit in unit order, [units, sums]; the same bits for any number of threads.
   * @throws QtoolError `interrupted` when the signal aborts; Error when a worker thread fails (a bug).
   */
  run<Job>(task: Task<Job>, signal?: AbortSignal): Promise<Float64Array>
  /**
   * Free what jobs that are done have left in memory, on all threads, once that may be much.
   * @param bytes about what was left since the last time.
   */
  collect(bytes: number): Promise<void>
  /** End the worker threads. Jobs under way fail. */
  close(): Promise<void>
}

/** What a worker thread is sent; without units it collects garbage. */
export interface Assignment {
  readonly id: number
  readonly work: (Units & { readonly module: string }) | undefined
}

interface Waiting {
  readonly resolve: () => void
  readonly reject: (reason: Error) => void
}

interface Crew {
  readonly worker: Worker
  readonly waiting: Map<number, Waiting>
  /** Why the thread is gone. */
  failure: Error | undefined
}

/** Bytes that are worth collecting. */
const MUCH = 128 * 2 ** 20

/**
 * The compiled worker starts as it is. Run from source, Node cannot load TypeScript in a new thread, whatever loader
 * this thread has, so the thread first registers tsx, a development dependency.
 */
function startWorker(): Worker {
  if (!import.meta.url.endsWith('.ts')) return new Worker(new URL('./worker.js', import.meta.url))
  const loader = import.meta.resolve('tsx/esm/api')
  const entry = new URL('./worker.ts', import.meta.url).href
  const source = `import { register } from '${loader}'; register(); await import('${entry}')`
  return new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`))
}

function hire(): Crew {
  const crew: Crew = { worker: startWorker(), waiting: new Map(), failure: undefined }
  const fail = (reason: string, cause?: unknown) => {
    crew.failure ??= new Error(`a worker thread stopped: ${reason}`, { cause })
    for (const { reject } of crew.waiting.values()) reject(crew.failure)
    crew.waiting.clear()
  }
  crew.worker.on('message', ({ id, error }: { id: number; error?: Error }) => {
    const waiting = crew.waiting.get(id)
    crew.waiting.delete(id)
    if (error) waiting?.reject(new Error(`a worker thread failed: ${error.message}`, { cause: error }))
    else waiting?.resolve()
  })
  crew.worker.on('error', (error: Error) => fail(error.message, error))
  crew.worker.on('exit', (code) => fail(`exit code ${code}`))
  return crew
}

function assign(crew: Crew, assignment: Assignment): Promise<void> {
  return new Promise((resolve, reject) => {
    if (crew.failure) {
      reject(crew.failure)
      return
    }
    crew.waiting.set(assignment.id, { resolve, reject })
    crew.worker.postMessage(assignment)
  })
}

/**
 * Make a pool.
 * @param threads at least 1; 1 works on the caller's thread and starts none.
 */
export function createPool(threads: number): KernelPool {
  if (!Number.isInteger(threads) || threads < 1) throw new RangeError(`threads: want an integer ≥ 1, got ${threads}`)
  const crews: Crew[] = []
  let lastId = 0
  let left = 0

  const onWorkers = async (
    work: Units & { module: string },
    count: number,
    signal: AbortSignal | undefined,
  ): Promise<void> => {
    while (crews.length < count) crews.push(hire())
    const assignment = { id: ++lastId, work }
    const stop = () => requestStop(work.control)
    signal?.addEventListener('abort', stop)
    try {
      // All must have let go of the shared arrays before anyone hears of a failure.
      const ends = await Promise.allSettled(
        crews.slice(0, count).map((crew) => assign(crew, assignment).catch(stopAndThrow)),
      )
      const failed = ends.find((end) => end.status === 'rejected')
      if (failed) throw failed.reason
    } finally {
      signal?.removeEventListener('abort', stop)
    }

    function stopAndThrow(reason: unknown): never {
      stop()
      throw reason
    }
  }

  return {
    threads,
    async run(task, signal) {
      checkAborted(signal)
      const { kernel, job, units, sums } = task
      if (units === 1) {
        const results = new Float64Array(sums)
        kernel.runUnit(job, 0, results)
        checkAborted(signal)
        return results
      }
      const results = new Float64Array(new SharedArrayBuffer(units * sums * 8))
      const shared: Units = { job, units, control: newControl(), results }
      const count = Math.min(threads, units)
      if (count === 1) await onThisThread(shared, kernel, signal)
      else await onWorkers({ ...shared, module: kernel.module }, count, signal)
      checkAborted(signal)
      return results
    },
    async collect(bytes) {
      left += bytes
      if (left < MUCH) return
      left = 0
      collectGarbage()
      await Promise.all(crews.map((crew) => assign(crew, { id: ++lastId, work: undefined })))
    },
    async close() {
      await Promise.all(crews.splice(0).map(({ worker }) => worker.terminate()))
    },
  }
}

async function onThisThread<Job>(units: Units, kernel: Kernel<Job>, signal: AbortSignal | undefined): Promise<void> {
  while (takeUnit(units, kernel.runUnit)) {
    // Between units, let the event that aborts the signal arrive.
    await setImmediate()
    checkAborted(signal)
  }
}
