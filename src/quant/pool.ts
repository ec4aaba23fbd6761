/**
 * @file Worker threads for the quantization kernel. They start with the first job that has work for two, and live until the
 * pool is closed. One thread, or one unit, runs on the caller's thread.
 */
import { setImmediate } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { checkAborted } from '../progress.ts'
import { type KernelJob, sumsOf, unitsOf } from './kernel.ts'
import { newControl, requestStop, takeUnit } from './units.ts'

export interface KernelPool {
  readonly threads: number
  /**
   * Do all units of a job. Jobs may overlap.
   * @returns the sums of every unit in unit order, [units, sumsOf(job)]; the same bits for any number of threads.
   * @throws QtoolError `interrupted` when the signal aborts; Error when a worker thread fails (a bug).
   */
  run(job: KernelJob, signal?: AbortSignal): Promise<Float64Array>
  /** End the worker threads. Jobs under way fail. */
  close(): Promise<void>
}

/** What a worker thread is sent. */
export interface KernelTask {
  readonly id: number
  readonly job: KernelJob
  readonly control: Int32Array
  readonly results: Float64Array
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

/**
 * The compiled worker starts as it is. Run from source, Node cannot load TypeScript in a new thread, whatever loader
 * this thread has, so the thread first registers tsx, a development dependency.
 */
function startWorker(): Worker {
  if (!import.meta.url.endsWith('.ts')) return new Worker(new URL('./kernelWorker.js', import.meta.url))
  const loader = import.meta.resolve('tsx/esm/api')
  const entry = new URL('./kernelWorker.ts', import.meta.url).href
  const source = `import { register } from '${loader}'; register(); await import('${entry}')`
  return new Worker(new URL(`data:text/javascript,${encodeURIComponent(source)}`))
}

function hire(): Crew {
  const crew: Crew = { worker: startWorker(), waiting: new Map(), failure: undefined }
  const fail = (reason: string, cause?: unknown) => {
    crew.failure ??= new Error(`a quantization thread stopped: ${reason}`, { cause })
    for (const { reject } of crew.waiting.values()) reject(crew.failure)
    crew.waiting.clear()
  }
  crew.worker.on('message', ({ id, error }: { id: number; error?: Error }) => {
    const waiting = crew.waiting.get(id)
    crew.waiting.delete(id)
    if (error) waiting?.reject(new Error(`a quantization thread failed: ${error.message}`, { cause: error }))
    else waiting?.resolve()
  })
  crew.worker.on('error', (error: Error) => fail(error.message, error))
  crew.worker.on('exit', (code) => fail(`exit code ${code}`))
  return crew
}

function assign(crew: Crew, task: KernelTask): Promise<void> {
  return new Promise((resolve, reject) => {
    if (crew.failure) {
      reject(crew.failure)
      return
    }
    crew.waiting.set(task.id, { resolve, reject })
    crew.worker.postMessage(task)
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

  const onWorkers = async (task: KernelTask, count: number, signal: AbortSignal | undefined): Promise<void> => {
    while (crews.length < count) crews.push(hire())
    const stop = () => requestStop(task.control)
    signal?.addEventListener('abort', stop)
    try {
      // All must have let go of the shared arrays before anyone hears of a failure.
      const ends = await Promise.allSettled(crews.slice(0, count).map((crew) => assign(crew, task).catch(stopAndThrow)))
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

  const onThisThread = async ({ job, control, results }: KernelTask, signal: AbortSignal | undefined) => {
    // Between units, let the event that aborts the signal arrive.
    while (takeUnit(job, control, results)) {
      if (results.length > sumsOf(job)) await setImmediate()
      checkAborted(signal)
    }
  }

  return {
    threads,
    async run(job, signal) {
      checkAborted(signal)
      const units = unitsOf(job)
      const results = new Float64Array(new SharedArrayBuffer(units * sumsOf(job) * 8))
      const task = { id: ++lastId, job, control: newControl(), results }
      const count = Math.min(threads, units)
      if (count === 1) await onThisThread(task, signal)
      else await onWorkers(task, count, signal)
      checkAborted(signal)
      return results
    },
    async close() {
      await Promise.all(crews.splice(0).map(({ worker }) => worker.terminate()))
    },
  }
}
