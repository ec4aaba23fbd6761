/** @file How the threads of a pool share out the units of a job: through two shared integers. */
import { type KernelJob, runUnit, unitsOf } from './kernel.ts'

/** Slots of the control array: the next unit that nobody has taken, and whether to stop before it. */
const NEXT = 0
const STOP = 1

export function newControl(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(8))
}

/** Tell everyone who shares the control array to stop after the unit in hand. */
export function requestStop(control: Int32Array): void {
  Atomics.store(control, STOP, 1)
}

/** Do the next unit. @returns false when none is left or a stop was requested. */
export function takeUnit(job: KernelJob, control: Int32Array, results: Float64Array): boolean {
  if (Atomics.load(control, STOP)) return false
  const unit = Atomics.add(control, NEXT, 1)
  if (unit >= unitsOf(job)) return false
  runUnit(job, unit, results)
  return true
}

/** Do units until none is left; on an error the others stop too. */
export function drainUnits(job: KernelJob, control: Int32Array, results: Float64Array): void {
  try {
    while (takeUnit(job, control, results));
  } catch (error) {
    requestStop(control)
    throw error
  }
}
