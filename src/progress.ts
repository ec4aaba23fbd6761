/** @file How long-running work reports where it is, and how it is told to stop. Imports only the error class. */
import { QtoolError } from './errors.ts'

/** One step of progress. `done` of `total` counts `unit`s of the named stage; `total` is at least 1. */
export interface ProgressEvent {
  readonly stage:
    | 'read'
    | 'plan'
    | 'calibrate'
    | 'quantize'
    | 'write'
    | 'verify'
    | 'evaluate'
    | 'analyze'
    | 'measure'
    | 'allocate'
  readonly done: number
  readonly total: number
  /** What is being worked on now, for example a layer's name. */
  readonly item?: string
  /** How it goes, in a few words, for example the current error. */
  readonly detail?: string
}

export type ProgressListener = (event: ProgressEvent) => void

/** What every long operation accepts. */
export interface RunOptions {
  readonly onProgress?: ProgressListener
  readonly signal?: AbortSignal
}

/** @throws QtoolError `interrupted` when the caller has aborted. Call it between units of work. */
export function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new QtoolError('interrupted', 'interrupted before it was done; nothing was written')
}

/**
 * Let the event loop turn once: timers fire, a signal may abort, threads' answers come in. Work that blocks (onnxruntime,
 * packing) waits for it between its units.
 */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
