import { expect, test } from 'vitest'
import { createPool } from '../../src/quant/pool.ts'
import { quantizeTensor } from '../../src/quant/quantizeTensor.ts'

test('x', async () => {
  const pool = createPool(2)
  const bytes = new SharedArrayBuffer(4 << 22)
  const r = await quantizeTensor(
    { bytes, elementType: 'float32', shape: [1, 2048, 2048] },
    { bits: 4, groupSize: 32, candidates: [{ scheme: 'symmetric', method: 'minmax' }] },
    pool,
  )
  expect(r.squaredError).toBe(0)
  await pool.close()
})
