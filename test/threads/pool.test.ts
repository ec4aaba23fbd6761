import { expect, test } from 'vitest'
import type { Task } from '../../src/threads/kernel.ts'
import { createPool } from '../../src/threads/pool.ts'
import { module, runUnit, type SumJob } from './sumKernel.ts'

const values = Float64Array.from({ length: 1000 }, (_, i) => Math.sin(i) * 10 ** (i % 7))

function task(units: number, failAt?: number): Task<SumJob> {
  const visits = new Int32Array(new SharedArrayBuffer(units * 4))
  const job = { values, units, visits, ...(failAt === undefined ? {} : { failAt }) }
  return { kernel: { module, runUnit }, job, units, sums: 2 }
}

test('every unit is done once, and its sums lie in its place, with any number of threads', async () => {
  for (const threads of [1, 3]) {
    const pool = createPool(threads)
    for (const units of [1, 2, 37]) {
      const expected = task(units)
      const sums = new Float64Array(2 * units)
      for (let unit = 0; unit < units; unit++) runUnit(expected.job, unit, sums)
      const one = task(units)
      const other = task(units)
      const results = await Promise.all([pool.run(one), pool.run(other)])
      for (const result of results) expect(result).toEqual(sums)
      for (const { job } of [one, other]) expect([...job.visits]).toEqual(Array(units).fill(1))
    }
    await pool.close()
  }
})

test('a unit that fails ends its job with its message, and the next job runs', async () => {
  for (const threads of [1, 2]) {
    const pool = createPool(threads)
    await expect(pool.run(task(20, 3))).rejects.toThrow(/unit 3 fails/)
    await expect(pool.run(task(1, 0))).rejects.toThrow(/unit 0 fails/)
    expect((await pool.run(task(5))).length).toBe(10)
    await pool.close()
  }
})

test('a module that cannot be loaded fails its job', async () => {
  const pool = createPool(2)
  const lost = { ...task(4), kernel: { module: new URL('./nowhere.ts', import.meta.url).href, runUnit } }
  await expect(pool.run(lost)).rejects.toThrow(/worker thread failed/)
  expect((await pool.run(task(5))).length).toBe(10)
  await pool.close()
})

test('an aborted job says so', async () => {
  for (const threads of [1, 2]) {
    const pool = createPool(threads)
    await expect(pool.run(task(1), AbortSignal.abort())).rejects.toMatchObject({ code: 'interrupted' })
    const controller = new AbortController()
    const asked = task(300)
    const run = pool.run(asked, controller.signal)
    controller.abort()
    await expect(run).rejects.toMatchObject({ code: 'interrupted' })
    expect(asked.job.visits.filter((count) => count > 0).length).toBeLessThan(2)
    await pool.close()
  }
})
