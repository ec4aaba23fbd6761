import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { gridCandidates } from '../../src/quant/candidates.ts'
import { type KernelJob, kernelTask } from '../../src/quant/kernel.ts'
import { BITS } from '../../src/quant/quantizedWeight.ts'
import { type QuantizedTensor, quantizeTensor } from '../../src/quant/quantizeTensor.ts'
import { relativeErrors } from '../../src/quant/relativeErrors.ts'
import { createPool } from '../../src/threads/pool.ts'
import { normalWeights, store } from './weights.ts'

const OPTIONS = { bits: 4, groupSize: 32, candidates: gridCandidates('auto', 'auto') } as const
/** Three units of work, the last of them short. */
const SHAPE = [1, 1500, 1700] as const
const weight = store(normalWeights(SHAPE[1] * SHAPE[2], 1), SHAPE)
const small = store(normalWeights(300 * 200, 2), [300, 200, 1])

/** A tensor with its large arrays replaced by their checksums. */
function fingerprint({ weight: { codes, scales, zeroPoints, ...shape }, ...rest }: QuantizedTensor) {
  const arrays = [codes, scales, zeroPoints ?? new Uint8Array(0)]
  const sums = arrays.map((array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
    return createHash('sha256').update(bytes.slice()).digest('hex')
  })
  return { ...shape, ...rest, sums }
}

test('the result is the same, bit for bit, for 1, 2 and 3 threads', async () => {
  const results = []
  for (const threads of [1, 2, 3]) {
    const pool = createPool(threads)
    // Two jobs at a time, to see that they do not mix.
    const [tensor, errors] = await Promise.all([
      quantizeTensor(weight, OPTIONS, pool),
      relativeErrors(small, 32, BITS, pool),
    ])
    results.push({ tensor: fingerprint(tensor), errors })
    await pool.close()
  }
  expect(results[1]).toEqual(results[0])
  expect(results[2]).toEqual(results[0])
})

test('an abort ends the work with its own error', async () => {
  for (const threads of [1, 2]) {
    const pool = createPool(threads)
    const before = AbortSignal.abort()
    await expect(quantizeTensor(small, OPTIONS, pool, before)).rejects.toMatchObject({ code: 'interrupted' })
    const controller = new AbortController()
    const run = quantizeTensor(weight, OPTIONS, pool, controller.signal)
    setImmediate(() => controller.abort())
    await expect(run).rejects.toMatchObject({ code: 'interrupted' })
    // The pool is as good as before.
    await expect(quantizeTensor(small, OPTIONS, pool)).resolves.toMatchObject({ weight: { rows: 300 } })
    await pool.close()
  }
})

test('an error in a thread reaches the caller, and the pool goes on', async () => {
  const pool = createPool(2)
  const broken = { kind: 'measure', weight, groupSize: 32, specs: [undefined], stride: 1 }
  await expect(pool.run(kernelTask(broken as unknown as KernelJob))).rejects.toThrow(/worker thread failed/)
  await expect(quantizeTensor(weight, OPTIONS, pool)).resolves.toMatchObject({ weight: { cols: SHAPE[1] } })
  await pool.close()
})

test('closing a pool fails the job under way instead of leaving it open', async () => {
  const pool = createPool(2)
  const run = quantizeTensor(weight, OPTIONS, pool)
  await Promise.all([expect(run).rejects.toThrow(/thread stopped/), pool.close()])
})

test('a pool has at least one thread', () => {
  for (const threads of [0, 1.5, -1]) expect(() => createPool(threads)).toThrow(RangeError)
})
