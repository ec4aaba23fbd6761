/** @file What threads can be given to do: a module with a function that does one unit of a job. */

/**
 * Writes the sums of unit `unit` into results[unit · sums … (unit + 1) · sums). Units of a job may run at the same time
 * and in any order: each writes only what is its own.
 */
export type RunUnit<Job> = (job: Job, unit: number, results: Float64Array) => void

/** A function for threads, and the module that exports it as `runUnit`. */
export interface Kernel<Job> {
  /** The module's own `import.meta.url`. */
  readonly module: string
  readonly runUnit: RunUnit<Job>
}

/**
 * A job cut into units. The cut follows from the job alone, and each unit leaves its float64 sums apart, so whoever
 * adds them in order gets the same bits from any number of threads.
 */
export interface Task<Job> {
  readonly kernel: Kernel<Job>
  /** Plain data; arrays that units write to lie in shared memory, and those they read had better. */
  readonly job: Job
  /** At least 1. */
  readonly units: number
  /** Numbers that each unit leaves; may be 0. */
  readonly sums: number
}
