/** Files of latencies: what is written is what is read, and what is damaged is refused. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { type LatencyTimes, readLatencyFile, writeLatencyFile } from '../../src/analyze/latencyFile.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
const file = (name: string) => path.join(temp, name)

const MEASURED: LatencyTimes = {
  kind: 'measured',
  table: {
    machine: 'a "fake"\n, 2 cores',
    threads: 2,
    source: 'measured',
    entries: [
      { rows: 48, cols: 64, positions: 5, kernel: { form: 'float' }, seconds: 0.1 + 0.2 },
      {
        rows: 48,
        cols: 64,
        positions: 5,
        kernel: { form: 'MatMulNBits', bits: 4, groupSize: 32, accuracyLevel: 0 },
        seconds: 5e-324,
      },
    ],
  },
  models: [{ structure: 'abc', positions: 5, seconds: 1 / 3 }],
}

describe('a latency file', () => {
  it.each<[string, LatencyTimes]>([
    ['times', MEASURED],
    ['no times', { kind: 'measured', table: { ...MEASURED.table, entries: [] }, models: [] }],
    ['two peaks', { kind: 'roofline', machine: { flopsPerSecond: 1e11, bytesPerSecond: 2.5e10 } }],
    ['speedups', { kind: 'roofline', machine: { flopsPerSecond: 1, bytesPerSecond: 2, speedup: { 2: 3.5, 8: 4 } } }],
  ])('keeps %s to the last bit', (name, times) => {
    writeLatencyFile(file(name), times)
    expect(readLatencyFile(file(name))).toEqual(times)
    expect(fs.readdirSync(temp).filter((entry) => entry.endsWith('.tmp'))).toEqual([])
  })

  it('may be written by hand', () => {
    fs.writeFileSync(file('hand'), '{ "kind": "roofline", "bytesPerSecond": 2e10, "flopsPerSecond": 1e11 }')
    expect(readLatencyFile(file('hand'))).toEqual({
      kind: 'roofline',
      machine: { flopsPerSecond: 1e11, bytesPerSecond: 2e10 },
    })
  })

  it('need not exist, if it can be written', () => {
    expect(readLatencyFile(file('none.json'))).toBeUndefined()
    expectQtoolError('output', () => readLatencyFile(file('nowhere/none.json')), 'nowhere')
    expectQtoolError('output', () => writeLatencyFile(file('nowhere/none.json'), MEASURED), 'nowhere')
    expectQtoolError('usage', () => readLatencyFile(temp), `cannot read ${temp}`)
    fs.mkdirSync(file('folder'))
    expectQtoolError('output', () => writeLatencyFile(file('folder'), MEASURED), 'folder')
    expect(fs.readdirSync(temp).filter((entry) => entry.endsWith('.tmp'))).toEqual([])
  })

  it('cut anywhere is no latency file', () => {
    writeLatencyFile(file('whole'), MEASURED)
    const bytes = fs.readFileSync(file('whole'))
    for (let length = 0; length < bytes.length - 2; length += 7) {
      fs.writeFileSync(file('cut'), bytes.subarray(0, length))
      expectQtoolError('usage', () => readLatencyFile(file('cut')), 'is no latency file: it is not JSON')
    }
  })

  const entry = { rows: 48, cols: 64, positions: 5, kernel: { form: 'float' }, seconds: 1 }
  const measured = { schemaVersion: 1, kind: 'measured', machine: 'm', threads: 0, models: [], entries: [entry] }
  const kernel = { form: 'MatMulNBits', bits: 4, groupSize: 32, accuracyLevel: 4 }
  const roofline = { kind: 'roofline', flopsPerSecond: 1, bytesPerSecond: 1 }
  const model = { structure: 's', positions: 1, seconds: 1 }
  const withEntry = (fields: object) => ({ ...measured, entries: [{ ...entry, ...fields }] })
  const withKernel = (fields: object) => withEntry({ kernel: { ...kernel, ...fields } })

  it('is read before it is damaged', () => {
    for (const document of [measured, withKernel({}), roofline, { ...measured, models: [model] }]) {
      fs.writeFileSync(file('sound'), JSON.stringify(document))
      expect(readLatencyFile(file('sound'))?.kind).toBe(document.kind)
    }
  })

  it.each<[string, unknown]>([
    ['the document is [], wanted an object', []],
    ['the document is null, wanted an object', null],
    ['kind is missing, wanted "measured" or "roofline"', {}],
    ['kind is "table", wanted', { ...measured, kind: 'table' }],
    ['schemaVersion is 2, this program reads 1', { ...measured, schemaVersion: 2 }],
    ['schemaVersion is missing', { ...measured, schemaVersion: undefined }],
    ['schemaVersion is 2', { ...roofline, schemaVersion: 2 }],
    ['machine is 3, wanted a text', { ...measured, machine: 3 }],
    ['threads is -1, wanted a whole number from 0 on', { ...measured, threads: -1 }],
    ['threads is 1.5', { ...measured, threads: 1.5 }],
    ['models is {}, wanted a list', { ...measured, models: {} }],
    ['models[0].structure is 1, wanted a text', { ...measured, models: [{ ...model, structure: 1 }] }],
    ['models[0].positions is 0', { ...measured, models: [{ ...model, positions: 0 }] }],
    ['models[0].seconds is "1", wanted a number above 0', { ...measured, models: [{ ...model, seconds: '1' }] }],
    ['models[0] has name', { ...measured, models: [{ ...model, name: '' }] }],
    ['entries is missing', { ...measured, entries: undefined }],
    ['entries[0] is null', { ...measured, entries: [null] }],
    ['entries[1] is there twice', { ...measured, entries: [entry, { ...entry, seconds: 2 }] }],
    ['entries[0].rows is 0', withEntry({ rows: 0 })],
    ['entries[0].cols is 1.5', withEntry({ cols: 1.5 })],
    ['entries[0].positions is null', withEntry({ positions: null })],
    ['entries[0].seconds is 0, wanted a number above 0', withEntry({ seconds: 0 })],
    ['entries[0].seconds is null', withEntry({ seconds: null })],
    ['entries[0] has milliseconds', withEntry({ milliseconds: 1 })],
    ['entries[0].kernel is "float", wanted an object', withEntry({ kernel: 'float' })],
    ['entries[0].kernel.form is "int", wanted', withEntry({ kernel: { form: 'int' } })],
    ['entries[0].kernel has bits, wanted only form', withEntry({ kernel: { form: 'float', bits: 4 } })],
    ['entries[0].kernel.bits is 3, wanted 2, 4 or 8', withKernel({ bits: 3 })],
    ['entries[0].kernel.groupSize is 0', withKernel({ groupSize: 0 })],
    ['entries[0].kernel.accuracyLevel is 1, wanted 0 or 4', withKernel({ accuracyLevel: 1 })],
    ['entries[0].kernel has block', withKernel({ block: 32 })],
    ['flopsPerSecond is missing', { ...roofline, flopsPerSecond: undefined }],
    ['bytesPerSecond is 0', { ...roofline, bytesPerSecond: 0 }],
    ['bytesPerSecond is "20 GB/s", wanted a number', { ...roofline, bytesPerSecond: '20 GB/s' }],
    ['speedup is 2, wanted an object', { ...roofline, speedup: 2 }],
    ['speedup has 3, wanted only 2, 4, 8', { ...roofline, speedup: { 3: 1 } }],
    ['speedup of 4 is -1', { ...roofline, speedup: { 4: -1 } }],
    ['the document has speedUp, wanted only', { ...roofline, speedUp: {} }],
    ['the document has flopsPerSecond, wanted only', { ...measured, flopsPerSecond: 1 }],
  ])('is refused where %s', (message, document) => {
    fs.writeFileSync(file('damaged'), JSON.stringify(document))
    const error = expectQtoolError(
      'usage',
      () => readLatencyFile(file('damaged')),
      `${file('damaged')} is no latency file: ${message}`,
    )
    expect(error.hint).toBeDefined()
  })
})
