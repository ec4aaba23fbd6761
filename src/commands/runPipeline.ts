/** @file Runs one operation in a worker thread, listens to its progress, and stops it when the user says so. */
import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { type ErrorCode, QtoolError } from '../errors.ts'
import type { ProgressListener } from '../progress.ts'
import type { ReportOf, Task, WorkerMessage, WorkerStart } from './task.ts'
import { removeTemporaries } from './temporaries.ts'

/** How long a worker may take to stop by itself, and then to be stopped, in milliseconds. */
const GRACE = 3000
const TERMINATION = 2000
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Beside this file, in TypeScript or compiled. */
export const PIPELINE_WORKER = new URL(
  import.meta.url.endsWith('.ts') ? './pipelineWorker.ts' : './pipelineWorker.js',
  import.meta.url,
)

export interface RunSettings {
  readonly onProgress: ProgressListener
  /** Told once, when the user asks to stop and the worker is given time to. */
  readonly onStopping: () => void
  /** The module that the worker runs, {@link PIPELINE_WORKER}; tests put their own here. */
  readonly worker: URL
}

/**
 * Run a task. The first interrupt (Ctrl-C, SIGTERM, SIGHUP) asks the worker to stop at its next checkpoint; a second
 * one, or three seconds, end it where it is. Temporary files of a run that did not end by itself are removed.
 *
 * @returns the report.
 * @throws QtoolError as the pipeline threw it, or `interrupted`; any other error is a bug of ours.
 */
export function runPipeline<T extends Task>(task: T, settings: RunSettings): Promise<ReportOf[T['operation']]> {
  const stop = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)
  const start: WorkerStart = { task, stop }
  const worker = new Worker(settings.worker, { workerData: start })
  return new Promise((resolve, reject) => {
    let grace: NodeJS.Timeout | undefined
    let settled = false
    const settle = (act: () => void) => {
      if (settled) return
      settled = true
      clearTimeout(grace)
      for (const signal of SIGNALS) process.off(signal, onSignal)
      act()
    }
    const fail = (error: unknown) =>
      settle(() => {
        removeTemporaries(task, process.pid)
        reject(error)
      })
    const force = async () => {
      // A thread inside a native call ends only when that returns; the user does not wait for it.
      await Promise.race([worker.terminate(), delay(TERMINATION, undefined, { ref: false })])
      fail(interrupted(task))
    }
    const onSignal = () => {
      if (Atomics.exchange(new Int32Array(stop), 0, 1) !== 0) {
        void force()
        return
      }
      settings.onStopping()
      grace = setTimeout(force, GRACE)
    }
    for (const signal of SIGNALS) process.on(signal, onSignal)
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind === 'progress') settings.onProgress(message.event)
      else if (message.kind === 'done') settle(() => resolve(message.report as ReportOf[T['operation']]))
      else fail(errorFrom(message, task))
    })
    worker.on('error', fail)
    worker.on('exit', (code) => {
      const stopped = Atomics.load(new Int32Array(stop), 0) !== 0
      fail(stopped ? interrupted(task) : new Error(`the pipeline ended without a result (code ${code})`))
    })
  })
}

function interrupted(task: Task): QtoolError {
  const message = task.operation === 'quantize' ? 'interrupted; nothing was written' : 'interrupted'
  return new QtoolError('interrupted', message, hintOf('interrupted', undefined, task))
}

/** An interrupted run that saves its progress can go on. */
function hintOf(code: ErrorCode, hint: string | undefined, task: Task): { hint?: string } {
  if (hint !== undefined) return { hint }
  const resume = task.operation === 'quantize' ? task.config.resume : undefined
  if (code !== 'interrupted' || resume === undefined) return {}
  return { hint: `the same command goes on from what ${resume} holds` }
}

function errorFrom({ code, message, hint, stack }: Extract<WorkerMessage, { kind: 'failed' }>, task: Task): Error {
  const error = code === undefined ? new Error(message) : new QtoolError(code, message, hintOf(code, hint, task))
  if (stack !== undefined) error.stack = stack
  return error
}
