/** @file How the threads of a pool share out the units of a job: through two shared integers. */
import type { RunUnit } from './kernel.ts'

/** Slots of the control array: the next unit that nobody has taken, and whether to stop before it. */
const NEXT = 0
const STOP = 1

/** The part of a task that is the same in every thread. */
export interface Units {
  readonly job: unknown
  readonly units: number
  readonly control: Int32Array
  readonly results: Float64Array
}

export function newControl(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(8))
}

/** Tell everyone who shares the control array to stop after the unit in hand. */
export function requestStop(control: Int32Array): void {
  Atomics.store(control, STOP, 1)
}

/** Do the next unit. @returns false when none is left or a stop was requested. */
export function takeUnit({ job, units, control, results }: Units, runUnit: RunUnit<never>): boolean {
  if (Atomics.load(control, STOP)) return false
  const unit = Atomics.add(control, NEXT, 1)
  if (unit >= units) return false
  runUnit(job as never, unit, results)
  return true
}

/** Do units until none is left; on an error the others stop too. */
export function drainUnits(units: Units, runUnit: RunUnit<never>): void {
  try {
    while (takeUnit(units, runUnit));
  } catch (error) {
    requestStop(units.control)
    throw error
  }
}
