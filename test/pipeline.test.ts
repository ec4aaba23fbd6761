/** Every fixture through the whole tool: written, verified, loaded again, and still computing what the original computes. */
import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import { FIXTURES, type Fixture, fixturePath, INDEX_LIMIT } from '../fixtures/generate.ts'
import { loadModel } from '../src/onnx/load.ts'
import { quantizeModel } from '../src/pipeline.ts'
import { makeRandom } from '../src/random.ts'
import type { QuantizeReport } from '../src/report.ts'
import { decodeIndependently } from './helpers/independentReader.ts'
import { useTempDir } from './helpers/tempDir.ts'

const directory = useTempDir()
const UNTOUCHED = ['nothing-to-quantize', 'already-quantized-qdq', 'already-quantized-qattention']
const BROKEN = ['nan-weight']
const usable = FIXTURES.filter(({ name }) => !UNTOUCHED.includes(name) && !BROKEN.includes(name))

function feedsFor({ inputs }: Fixture): Record<string, ort.Tensor> {
  const random = makeRandom(11)
  const feeds: Record<string, ort.Tensor> = {}
  for (const { name, type, dims } of inputs) {
    const shape = dims.map((dim) => (typeof dim === 'number' ? dim : 3))
    const count = shape.reduce((a, b) => a * b, 1)
    const filled = <T>(make: () => T) => Array.from({ length: count }, make)
    if (type === 'int64')
      feeds[name] = new ort.Tensor('int64', BigInt64Array.from(filled(() => BigInt(random.below(INDEX_LIMIT)))), shape)
    else if (type === 'bool') feeds[name] = new ort.Tensor('bool', Uint8Array.from(filled(() => 1)), shape)
    else if (type === 'float16')
      feeds[name] = new ort.Tensor('float16', Uint16Array.from(filled(() => 0x3c00 - random.below(2048))), shape)
    else if (type === 'float64')
      feeds[name] = new ort.Tensor('float64', Float64Array.from(filled(() => random.normal())), shape)
    else feeds[name] = new ort.Tensor('float32', Float32Array.from(filled(() => random.normal())), shape)
  }
  return feeds
}

async function outputs(model: string, fixture: Fixture): Promise<number[]> {
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: 4, intraOpNumThreads: 1 })
  const results = await session.run(feedsFor(fixture))
  await session.release()
  return Object.keys(results)
    .sort()
    .flatMap((name) => Array.from(results[name]!.data as Iterable<number>, Number))
}

/** ‖a − b‖ / ‖a‖ */
function relativeDistance(a: readonly number[], b: readonly number[]): number {
  const squared = (values: readonly number[]) => values.reduce((sum, v) => sum + v * v, 0)
  return Math.sqrt(squared(a.map((v, i) => v - b[i]!)) / Math.max(squared(a), 1e-30))
}

describe.each(['auto', 'contrib', 'standard'] as const)('format %s', (format) => {
  it.each(usable.map((fixture) => [fixture.name, fixture] as const))('%s at 8 and 4 bits', async (name, fixture) => {
    const expected = await outputs(fixturePath(name), fixture)
    const distances: number[] = []
    for (const bits of [8, 4] as const) {
      const out = path.join(directory, `${name}.onnx`)
      let report: QuantizeReport
      try {
        report = await quantizeModel(fixturePath(name), out, { bits, format, force: true, threads: 1 })
      } catch (error) {
        // The smallest fixtures have nothing that pays; that is an answer, with its reason.
        expect(error).toMatchObject({ code: 'model', hint: expect.stringContaining('would not get smaller') })
        return
      }
      expect(report.verified!.length).toBeGreaterThanOrEqual(report.layers.length)
      expect(report.output.totalBytes).toBe(
        report.output.files.reduce((sum, file) => sum + fs.statSync(file.path).size, 0),
      )
      const ours = loadModel(out).proto
      // A reader that shares no code with the writer sees the same graph.
      const theirs = decodeIndependently(fs.readFileSync(out))
      expect(theirs.graph!.node!.map((node) => node.opType)).toEqual(ours.graph!.node.map((node) => node.opType))
      expect(theirs.graph!.initializer!.map((tensor) => tensor.name)).toEqual(
        ours.graph!.initializer.map((tensor) => tensor.name),
      )
      expect(theirs.metadataProps.map((entry) => entry.key)).toContain('qtool.plan')
      if (
        format === 'standard' &&
        name !== 'fused-matmul' &&
        name !== 'attention-msft' &&
        !name.startsWith('already')
      ) {
        const domains = loadModel(out).proto.graph!.node.map((node) => node.domain)
        expect(domains).not.toContain('com.microsoft')
      }
      distances.push(relativeDistance(expected, await outputs(out, fixture)))
    }
    // 8 bits: about 2^-8 of the range; 4 bits: about 16 times that.
    expect(distances[0], 'at 8 bits').toBeLessThan(0.03)
    expect(distances[1], 'at 4 bits').toBeLessThan(0.3)
  })
})

describe('a model with nothing to quantize', () => {
  it.each(UNTOUCHED)('%s comes out byte for byte, as an error that says so', async (name) => {
    const out = path.join(directory, 'copy.onnx')
    fs.rmSync(out, { force: true })
    await expect(quantizeModel(fixturePath(name), out)).rejects.toMatchObject({ code: 'model' })
    expect(fs.readFileSync(out).equals(fs.readFileSync(fixturePath(name)))).toBe(true)
    // Whatever budget was asked for.
    for (const budget of ['4bit', '0.9x']) {
      const asked = quantizeModel(fixturePath(name), out, { budget, force: true })
      await expect(asked, budget).rejects.toMatchObject({ code: expect.stringMatching(/model|infeasible/) })
    }
    await expect(quantizeModel(fixturePath(name), out, { budget: '4bpw', force: true })).rejects.toMatchObject({
      code: 'model',
    })
  })

  it('is what was asked for when every layer is skipped', async () => {
    const out = path.join(directory, 'skipped.onnx')
    const report = await quantizeModel(fixturePath('matmul'), out, { layers: [{ pattern: '*', bits: 'skip' }] })
    expect(report.layers).toEqual([])
    expect(report.leftAlone.map(({ reason }) => reason)).toContain('skipped by --layer')
    expect(fs.readFileSync(out).equals(fs.readFileSync(fixturePath('matmul')))).toBe(true)
  })
})

it('a weight that is no number is named', async () => {
  const out = path.join(directory, 'nan.onnx')
  await expect(quantizeModel(fixturePath('nan-weight'), out)).rejects.toThrowError(/tensor 'w'.*element 167 is NaN/)
  expect(fs.existsSync(out)).toBe(false)
})

it('the same input gives the same bytes for any number of threads', async () => {
  const files = [1, 2, 3].map((threads) => path.join(directory, `threads${threads}.onnx`))
  for (const [i, file] of files.entries()) await quantizeModel(fixturePath('matmul'), file, { threads: i + 1 })
  const [first, ...rest] = files.map((file) => fs.readFileSync(file))
  for (const other of rest) expect(other.equals(first!)).toBe(true)
})

it('a dry run writes nothing and knows the exact size', async () => {
  for (const [format, bits] of [
    ['auto', 3],
    ['standard', 4],
    ['auto', 6],
  ] as const) {
    const out = path.join(directory, `dry-${format}-${bits}.onnx`)
    const planned = await quantizeModel(fixturePath('matmul-shared-input'), out, { dryRun: true, format, bits })
    expect(fs.existsSync(out)).toBe(false)
    const written = await quantizeModel(fixturePath('matmul-shared-input'), out, { format, bits })
    expect(written.output).toEqual(planned.output)
  }
})

it('a budget is kept, in the bytes of the files', async () => {
  const source = fixturePath('external-data')
  const out = path.join(directory, 'budget.onnx')
  for (const budget of ['0.5x', '-60%', '4.7bpw', '4.5bpw', '3bpw', '20kB']) {
    const report = await quantizeModel(source, out, { budget, force: true }).catch((error: unknown) => {
      expect(error).toMatchObject({ code: 'infeasible' })
    })
    if (!report) continue
    if (budget.endsWith('bpw')) expect(report.totals.bitsPerWeight).toBeLessThanOrEqual(Number.parseFloat(budget))
    if (budget === '0.5x') expect(report.totals.ratio).toBeLessThanOrEqual(0.5)
    if (budget === '-60%') expect(report.totals.ratio).toBeLessThanOrEqual(0.4)
    if (budget === '20kB') expect(report.output.totalBytes).toBeLessThanOrEqual(20_000)
  }
  await expect(quantizeModel(source, out, { budget: '300 B', force: true })).rejects.toMatchObject({
    code: 'infeasible',
  })
})
