/**
 * @file The worker thread that runs one operation. onnxruntime blocks its thread, so the pipeline gets one of its own
 * and the main thread keeps the progress display and Ctrl-C alive.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { QtoolError } from '../errors.ts'
import type { ProgressEvent, ProgressListener, RunOptions } from '../progress.ts'
import type { ReportOf, Task, WorkerMessage, WorkerStart } from './task.ts'

const port = parentPort!

function post(message: WorkerMessage): void {
  port.postMessage(message)
}

/** Milliseconds between progress messages; the last one of a stage always goes out. */
const PROGRESS_INTERVAL = 50

function throttledProgress(): ProgressListener {
  let last: ProgressEvent | undefined
  let lastTime = 0
  return (event) => {
    const now = performance.now()
    const due = event.stage !== last?.stage || event.done >= event.total || now - lastTime >= PROGRESS_INTERVAL
    if (!due) return
    last = event
    lastTime = now
    post({ kind: 'progress', event })
  }
}

/**
 * A signal whose `aborted` reads shared memory. An ordinary one needs the event loop to hear of the abort, and that is
 * blocked for as long as the pipeline computes. Only reading `aborted` is supported; no event is fired.
 */
function sharedAbortSignal(stop: SharedArrayBuffer): AbortSignal {
  const flag = new Int32Array(stop)
  return Object.defineProperty(new AbortController().signal, 'aborted', { get: () => Atomics.load(flag, 0) !== 0 })
}

async function run(task: Task, options: RunOptions): Promise<ReportOf[keyof ReportOf]> {
  const pipeline = await import('../pipeline.ts')
  if (task.operation === 'analyze') return pipeline.analyzeModel(task.model, task.config, options)
  if (task.operation === 'quantize') return pipeline.quantizeModel(task.model, task.output, task.config, options)
  return pipeline.evaluateModels(task.reference, task.candidate, task.config, options)
}

const { task, stop } = workerData as WorkerStart
try {
  const report = await run(task, { onProgress: throttledProgress(), signal: sharedAbortSignal(stop) })
  post({ kind: 'done', report })
} catch (error) {
  const { message, stack } = error instanceof Error ? error : { message: String(error), stack: undefined }
  const known = error instanceof QtoolError ? error : undefined
  post({ kind: 'failed', code: known?.code, message, hint: known?.hint, stack })
}
