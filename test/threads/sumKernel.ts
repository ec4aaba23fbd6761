/** @file A kernel for the tests of the pool: adds up slices, and fails where it is told to. */
import type { RunUnit } from '../../src/threads/kernel.ts'

export interface SumJob {
  readonly values: Float64Array
  readonly units: number
  readonly failAt?: number
  /** Which units ran, by how often; shared. */
  readonly visits: Int32Array
}

export const module = import.meta.url

export const runUnit: RunUnit<SumJob> = ({ values, units, failAt, visits }, unit, results) => {
  if (unit === failAt) throw new Error(`unit ${unit} fails`)
  Atomics.add(visits, unit, 1)
  const size = Math.ceil(values.length / units)
  for (let i = unit * size; i < Math.min(values.length, (unit + 1) * size); i++) results[2 * unit]! += values[i]!
  results[2 * unit + 1] = unit
}
