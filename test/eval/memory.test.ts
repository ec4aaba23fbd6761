import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { measureMemory } from '../../src/eval/memory.ts'
import { encodeModel, makeNode } from '../../src/onnx/proto.ts'
import { drawn, smallModel, weight } from '../calibration/tapRuns.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const directory = useTempDir()
const MEGABYTE = 2 ** 20

/** x · w with w [1024, cols], which is folded out of so many copies: onnxruntime holds them all while it loads. */
function product(cols: number, copies = 0): string {
  const names = ['w', ...Array.from({ length: copies }, (_, i) => `w${i}`)]
  const nodes = names.slice(1).map((name, i) => makeNode('Exp', [names[i]!], [name]))
  const file = path.join(directory, `${cols}-${copies}.onnx`)
  const model = smallModel({
    nodes: [...nodes, makeNode('MatMul', ['x', names.at(-1)!], ['y'])],
    weights: [{ ...weight('w', [1024, cols], new Float32Array()), rawData: new Uint8Array(4096 * cols) }],
    inputs: { x: [undefined, 1024] },
  })
  fs.writeFileSync(file, encodeModel(model))
  return file
}

const measure = (file: string, signal?: AbortSignal) =>
  measureMemory({ path: file, feeds: new Map([['x', drawn([1, 1024], 1)]]), threads: 1 }, signal ? { signal } : {})

describe('memory of a model', () => {
  it('counts its weights, and what is folded while it is loaded', async () => {
    // 16 MB of weights; folded from three copies.
    const [small, large, folded] = [
      await measure(product(8)),
      await measure(product(4096)),
      await measure(product(4096, 3)),
    ]
    expect(large.loaded - small.loaded).toBeGreaterThan(12 * MEGABYTE)
    expect(large.loaded - small.loaded).toBeLessThan(80 * MEGABYTE)
    for (const { loaded, peak } of [small, large, folded]) expect(peak).toBeGreaterThanOrEqual(loaded)
    expect(folded.peak - large.peak).toBeGreaterThan(24 * MEGABYTE)
  })

  it('is not that of the process which asks', async () => {
    const ballast = new Uint8Array(512 * MEGABYTE).fill(1)
    const { peak } = await measure(product(8))
    expect(peak).toBeLessThan(256 * MEGABYTE)
    expect(ballast.at(-1)).toBe(1)
  })

  it('says which model it is that cannot be measured, and why', async () => {
    const file = path.join(directory, 'none.onnx')
    const failed = {
      code: 'model',
      message: expect.stringMatching(/^memory of .*none\.onnx cannot be measured: .*none\.onnx/),
    }
    await expect(measure(file)).rejects.toMatchObject(failed)
  })

  it('stops when it is told to', async () => {
    const abort = new AbortController()
    const measuring = measure(product(8), abort.signal)
    abort.abort()
    await expect(measuring).rejects.toMatchObject({ code: 'interrupted' })
  })
})
