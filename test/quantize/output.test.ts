/** What quantizeModel leaves on the disk: sizes known before, metadata, and nothing at all when it is stopped. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { FIXTURES, fixturePath } from '../../fixtures/generate.ts'
import type { QuantizeConfig } from '../../src/config.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { METADATA, plannedWeights } from '../../src/onnx/metadata.ts'
import { decodeModel, encodeModel, type ModelProto, makeMetadata } from '../../src/onnx/proto.ts'
import { evaluateModels, quantizeModel } from '../../src/pipeline.ts'
import type { ProgressEvent } from '../../src/progress.ts'
import { VERSION } from '../../src/version.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const directory = useTempDir()
const BROKEN = 'nan-weight'

describe('a dry run knows the bytes of every fixture', () => {
  it.each([
    ['auto', 8],
    ['auto', 3],
    ['contrib', 4],
    ['standard', 4],
    ['standard', 3],
  ] as const)('format %s at %i bits', async (format, bits) => {
    let compared = 0
    for (const { name } of FIXTURES) {
      if (name === BROKEN) continue
      const out = path.join(directory, `${format}-${bits}-${name}.onnx`)
      const config = { bits, format, threads: 1, verify: false, method: 'rtn' } as const
      const planned = await quantizeModel(fixturePath(name), out, { ...config, dryRun: true }).catch(() => undefined)
      expect(fs.existsSync(out), name).toBe(false)
      if (!planned) continue
      const written = await quantizeModel(fixturePath(name), out, config)
      expect(planned.output, name).toEqual(written.output)
      for (const file of written.output.files) expect(fs.statSync(file.path).size, name).toBe(file.bytes)
      compared++
    }
    expect(compared).toBeGreaterThan(20)
  })
})

const entriesOf = (proto: ModelProto) => Object.fromEntries(proto.metadataProps.map(({ key, value }) => [key, value]))

describe('metadata', () => {
  const source = fixturePath('external-data')
  const out = path.join(directory, 'metadata.onnx')
  const quantize = async (config: Partial<QuantizeConfig>) => {
    const report = await quantizeModel(source, out, { force: true, ...config })
    return { report, bytes: fs.readFileSync(out), entries: entriesOf(loadModel(out).proto) }
  }

  it('says with what, from what, how, and what became of each weight', async () => {
    const layers = [{ pattern: 'Gemm_h', bits: 8 }] as const
    const { report, entries } = await quantize({ bits: 3, layers, seed: 7 })
    expect(entries[METADATA.version]).toBe(VERSION)
    expect(entries[METADATA.source]).toBe(`sha256:${report.source.sha256.map(({ sha256 }) => sha256).join(',')}`)
    expect(report.source.sha256).toHaveLength(2)
    expect(JSON.parse(entries[METADATA.config]!)).toEqual({
      bits: 3,
      groupSize: 32,
      method: 'auto',
      symmetric: 'auto',
      layers,
      format: 'auto',
      accuracyLevel: 4,
      seed: 7,
    })
    const plan = JSON.parse(entries[METADATA.plan]!)
    expect(plan).toEqual(
      report.layers.map(({ weight, bits, groupSize: group, scheme, method, representations }) => ({
        weight,
        bits,
        group,
        scheme,
        method,
        as: representations.join('+'),
      })),
    )
    expect(plan.map(({ weight, bits }: { weight: string; bits: number }) => [weight, bits])).toEqual([
      ['w1', 8],
      ['w2', 3],
      ['w3', 3],
    ])
  })

  it('tells nothing that differs between equal outputs', async () => {
    const first = await quantize({ threads: 1 })
    const second = await quantize({ threads: 3, verify: false, force: true })
    expect(second.bytes.equals(first.bytes)).toBe(true)
  })

  it('keeps what others entered, and replaces what an earlier run of qtool did', async () => {
    const again = path.join(directory, 'again.onnx')
    const proto = decodeModel(fs.readFileSync(fixturePath('matmul')))
    proto.metadataProps = [
      makeMetadata('author', 'someone'),
      makeMetadata(METADATA.plan, 'old'),
      makeMetadata('qtool.other', 'kept'),
    ]
    const file = path.join(directory, 'described.onnx')
    fs.writeFileSync(file, encodeModel(proto))
    await quantizeModel(file, again, {})
    const { metadataProps } = loadModel(again).proto
    expect(metadataProps.slice(0, 2)).toMatchObject([
      { key: 'author', value: 'someone' },
      { key: 'qtool.other', value: 'kept' },
    ])
    expect(metadataProps.filter(({ key }) => key === METADATA.plan)).toHaveLength(1)
  })

  it.each(['', 'null', '{', '{"weight":"w"}', '[null]', '["w"]', '[{"bits":4}]', '7'])(
    'tampered with to %j does not disturb eval',
    async (text) => {
      const file = path.join(directory, 'small.onnx')
      const tampered = path.join(directory, 'tampered.onnx')
      await quantizeModel(fixturePath('matmul'), file, { bits: 3, force: true, verify: false })
      const proto = decodeModel(fs.readFileSync(file))
      expect(plannedWeights(proto)).toEqual(['w1', 'w2'])
      proto.metadataProps.find(({ key }) => key === METADATA.plan)!.value = text
      fs.writeFileSync(tampered, encodeModel(proto))
      expect(plannedWeights(proto)).not.toEqual(['w1', 'w2'])
      const report = await evaluateModels(fixturePath('matmul'), tampered, { random: 2, runs: 1 })
      expect(report.execution).toHaveLength(2)
    },
  )
})

describe('a run that is stopped', () => {
  const clean = path.join(directory, 'stopped')
  fs.mkdirSync(clean)
  const openFiles = () => fs.readdirSync('/proc/self/fd').length
  const stoppedAt = async (model: string, count: number, config: Partial<QuantizeConfig> = {}) => {
    const controller = new AbortController()
    const events: ProgressEvent[] = []
    if (count === 0) controller.abort()
    const onProgress = (event: ProgressEvent) => {
      events.push(event)
      if (events.length === count) controller.abort()
    }
    const run = quantizeModel(model, path.join(clean, 'out.onnx'), config, { signal: controller.signal, onProgress })
    await expect(run, `after ${count} events`).rejects.toMatchObject({ code: 'interrupted' })
    expect(fs.readdirSync(clean), `after ${count} events`).toEqual([])
    return events
  }

  it('before it began', async () => {
    await stoppedAt(fixturePath('matmul'), 0)
    await stoppedAt(fixturePath('nothing-to-quantize'), 0)
  })

  it('at the third event', async () => {
    const events = await stoppedAt(fixturePath('matmul'), 3)
    expect(events[2]).toMatchObject({ stage: 'quantize', item: 'MatMul_h' })
  })

  it('at any event: nothing is left behind, no file stays open', async () => {
    const events: ProgressEvent[] = []
    const all = path.join(directory, 'all.onnx')
    await quantizeModel(fixturePath('external-data'), all, {}, { onProgress: (event) => events.push(event) })
    const stages = new Set(events.map(({ stage }) => stage))
    expect([...stages]).toEqual(['read', 'plan', 'quantize', 'write', 'verify'])
    const before = process.platform === 'linux' ? openFiles() : 0
    for (let count = 1; count <= events.length; count++) await stoppedAt(fixturePath('external-data'), count)
    if (process.platform === 'linux') expect(openFiles()).toBeLessThanOrEqual(before + 1)
  })
})

describe('models of others', () => {
  it('PP-OCRv4 recognition at 4 bits, verified', async () => {
    const out = path.join(directory, 'ocr.onnx')
    const report = await quantizeModel(npmModels.ocrRecogniser, out, { bits: 4 })
    expect(report.layers.length).toBeGreaterThan(35)
    expect(report.verified!.length).toBeGreaterThanOrEqual(report.layers.length)
    expect(report.totals.ratio).toBeLessThan(0.2)
    expect(report.totals.relativeError).toBeLessThan(0.015)
    expect(report.output.totalBytes).toBe(fs.statSync(out).size)
  })

  it.each([8, 3] as const)('Silero VAD 5 at %i bits, its LSTM weights included', async (bits) => {
    const out = path.join(directory, `silero-${bits}.onnx`)
    const report = await quantizeModel(npmModels.silero, out, { bits })
    const lstm = report.layers.filter((layer) => layer.operators.includes('LSTM'))
    expect(lstm.map((layer) => [layer.bits, layer.representations])).toEqual(
      Array.from({ length: 4 }, () => [bits, ['folded']]),
    )
    expect(report.verified!.length).toBe(report.layers.length)
    for (const use of report.verified!) expect(use.largestDifference).toBe(0)
  })
})
