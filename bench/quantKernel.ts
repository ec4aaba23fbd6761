/**
 * @file Speed of the quantization kernel by stage: nanoseconds per weight of wall time, and of processor time over all
 * threads (which other load on the machine disturbs less).
 *
 *     tsx bench/quantKernel.ts [threads=2] [tensors=16]
 *
 * Weights: `tensors` times [1, 4096, 4096] float32, seeded normal numbers, read transposed as a MatMul's are.
 */
import { availableParallelism } from 'node:os'
import { gridCandidates } from '../src/quant/candidates.ts'
import { floatsToHalfBytes, packBlocks, packZeroPoints } from '../src/quant/pack.ts'
import { BITS, type GridWeight } from '../src/quant/quantizedWeight.ts'
import { quantizeTensor } from '../src/quant/quantizeTensor.ts'
import { relativeErrors } from '../src/quant/relativeErrors.ts'
import type { StoredWeight } from '../src/quant/storedWeight.ts'
import { Workspace } from '../src/quant/workspace.ts'
import { makeRandom } from '../src/random.ts'
import { createPool } from '../src/threads/pool.ts'

const SIDE = 4096
const threads = Number(process.argv[2] ?? availableParallelism())
const tensors = Number(process.argv[3] ?? 16)

const random = makeRandom(1)
const bytes = new SharedArrayBuffer(SIDE * SIDE * 4)
const values = new Float32Array(bytes)
for (let i = 0; i < values.length; i++) values[i] = 0.02 * random.normal()
const weight: StoredWeight = { bytes, elementType: 'float32', shape: [1, SIDE, SIDE] }
const pool = createPool(threads)

async function time(stage: string, run: () => unknown): Promise<void> {
  await run()
  const cpu = process.cpuUsage()
  const start = performance.now()
  for (let i = 0; i < tensors; i++) await run()
  const milliseconds = performance.now() - start
  const { user, system } = process.cpuUsage(cpu)
  const perWeight = (nanoseconds: number) => (nanoseconds / (tensors * values.length)).toFixed(2).padStart(7)
  const total = `${(milliseconds / 1000).toFixed(2)} s`
  console.log(
    `${stage.padEnd(36)} ${perWeight(milliseconds * 1e6)} wall ${perWeight((user + system) * 1e3)} cpu  ${total}`,
  )
}

console.log(`${threads} threads, ${tensors} × [1, ${SIDE}, ${SIDE}] float32, 4 bits, groups of 32`)
const workspace = new Workspace()
let last: GridWeight | undefined
const quantize = async (method: 'auto' | 'rtn', symmetric: 'auto' | 'yes' | 'no') => {
  const result = await quantizeTensor(
    weight,
    { bits: 4, groupSize: 32, candidates: gridCandidates(method, symmetric), workspace },
    pool,
  )
  last = result.weight
  return result
}
await time('rtn, asymmetric', () => quantize('rtn', 'no'))
await time('pack blocks', () => packBlocks(last!))
await time('pack zero points', () => packZeroPoints(last!))
await time('scales to float16', () => floatsToHalfBytes(last!.scales))
await time('rtn, best of three', () => quantize('rtn', 'auto'))
await time('auto', () => quantize('auto', 'auto'))
await time('round-to-nearest error, 6 widths', () => relativeErrors(weight, 32, BITS, pool))
const usage = process.resourceUsage()
console.log(`largest resident memory ${(usage.maxRSS / 1024).toFixed(0)} MiB`)
await pool.close()
