import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { analyzeText } from '../../src/commands/analyzeText.ts'
import { evalText } from '../../src/commands/evalText.ts'
import { describeProgress } from '../../src/commands/progressDisplay.ts'
import { quantizeText } from '../../src/commands/quantizeText.ts'
import { isLively, printable } from '../../src/commands/terminal.ts'
import { bytesText, countText, figureText, shortenMiddle, textTable } from '../../src/commands/textTable.ts'
import { readShare } from '../../src/commands/values.ts'
import { nearestName } from '../../src/nearestName.ts'
import { ANALYZE_REPORT, CALIBRATED_REPORT, EVAL_REPORT, QUANTIZE_REPORT } from './sampleReports.ts'

describe('reports as text', () => {
  const texts = [analyzeText(ANALYZE_REPORT), quantizeText(QUANTIZE_REPORT), evalText(EVAL_REPORT)]

  it('look as they should', () => {
    expect(texts.join('\n=====\n')).toMatchSnapshot()
  })

  it('say what calibration did, where there was one', () => {
    expect(quantizeText(CALIBRATED_REPORT)).toMatchInlineSnapshot(`
      "layer             operator  shape           bits  group  grid        bpw   stored    error  gptq α
      ----------------  --------  --------------  ----  -----  ---------  ----  -------  -------  --------
      /encode..ng_name  MatMul    [768, 2304]        4     32  asym clip  4.63  1.02 MB  0.00624  0.25 act
      /head/Conv        Conv      [64, 32, 3, 3]     4     32  asym clip  4.63  10.7 kB  0.00624  0 nat
      /head/Conv        Conv      [64, 32, 3, 3]     4     32  asym clip  4.63  10.7 kB  0.00624  rtn
      /head/Conv        Conv      [64, 32, 3, 3]     4     32  asym clip  4.63  10.7 kB  0.00624  -

      note (/encoder/transformer/layers.11/self_attention/query_key_value_projection/MatMul_with_a_long_name): K is padded to the group

      left alone (2, 6.14 kB): a scale, not a layer
      node        operator    bytes
      ----------  --------  -------
      /norm/Mul   Mul       3.07 kB
      /norm2/Mul  Mul       3.07 kB

      left alone (1, 1.20 MB): LSTM is not supported
      node       operator    bytes
      ---------  --------  -------
      /rnn/LSTM  LSTM      1.20 MB

      output on held-out samples  SQNR dB  KL, nats
      --------------------------  -------  --------
      logits                        24.32   0.00456
      embedding                       inf         -

      model.onnx 9.00 MB -> small.onnx 2.10 MB (0.233x, 2100000 bytes)
      4 layers, 1.79 M weights: mean width 4 bits, 4.63 stored bits per weight, relative error 0.00624
      opset raised from 13 to 21
      calibrated on 256 samples (51 held out) from calibration.npz: 131 k positions, gptq in 2 of 4 layers
      note: 3 samples are longer than 512 tokens and were cut
      verified: onnxruntime computes 1 layers as decided (largest relative difference 3.0e-7)
      written in 1.3 s"
    `)
    expect(quantizeText(QUANTIZE_REPORT)).not.toContain('calibrated')
  })

  it('name the tables of a layer that is on no grid', () => {
    const [layer] = QUANTIZE_REPORT.layers
    const table = { tables: 1, shared: false, permuted: false, coding: { kind: 'scalar' } } as const
    const tables = [
      { ...table, name: 'trellis', coding: { kind: 'trellis', window: 12 } },
      { ...table, name: 'vq', coding: { kind: 'vector', dim: 4 } },
      { ...table, name: 'jlcm', tables: 4 },
      { ...table, name: 'jlcm' },
      { ...table, name: 'lut', tables: 2304 },
    ] as const
    const own = tables.map((codebook) => {
      return { ...layer!, name: codebook.name, scheme: undefined, method: 'codebook', codebook } as const
    })
    const text = quantizeText({ ...QUANTIZE_REPORT, layers: [...own, layer!] })
    const lines = text.split('\n').slice(0, 8)
    const at = lines[0]!.indexOf('levels')
    expect(lines.map((line) => line.slice(at, line.indexOf('  ', at)).trim())).toEqual([
      ...['levels', '-------------', 'trellis 12', 'vq 4', 'jlcm 4 tables', 'jlcm 1 table', 'lut', 'asym clip'],
    ])
    expect(lines.every((line) => line.length <= 100)).toBe(true)
  })

  it('leave out the held-out outputs when nothing was held out', () => {
    const calibration = { ...CALIBRATED_REPORT.calibration!, heldOut: 0, outputs: [] }
    expect(quantizeText({ ...CALIBRATED_REPORT, calibration })).not.toContain('held-out')
  })

  it('have tables that fit 100 columns', () => {
    const tableLines = [...texts, quantizeText(CALIBRATED_REPORT)]
      .join('\n')
      .split('\n')
      .filter((line) => !/^(note|left alone|model|calibrated|\d+ layers)/.test(line))
    for (const line of tableLines) expect(line.length).toBeLessThanOrEqual(100)
  })

  it('cannot be faked by names in a model', () => {
    const name = 'x\n\u001b[2Jverified\r'
    const layers = QUANTIZE_REPORT.layers.map((layer) => ({ ...layer, name, notes: [name] }))
    const leftAlone = [{ name, operator: name, weight: name, bytes: 1, reason: name }]
    const text = quantizeText({ ...QUANTIZE_REPORT, layers, leftAlone })
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
    expect(text).not.toMatch(/[\u001b\r]/)
    expect(text).not.toMatch(/^verified\\/m)
    const calibration = {
      ...CALIBRATED_REPORT.calibration!,
      source: name,
      outputs: [{ output: name, sqnr: 1, kl: 2 }],
      notes: [name],
    }
    const calibrated = quantizeText({ ...CALIBRATED_REPORT, calibration })
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
    expect(calibrated).not.toMatch(/[\u001b\r]/)
    expect(calibrated).not.toMatch(/^verified\\/m)
  })
})

describe('a table', () => {
  it('aligns numbers right and names left, and shortens names in the middle', () => {
    const name = `/begin/${'x'.repeat(200)}/end`
    const lines = textTable(
      ['name', '<kind', 'n'],
      [
        [name, 'a', '1'],
        ['b', 'cc', '22'],
      ],
    ).split('\n')
    expect(lines).toHaveLength(4)
    expect(lines[2]).toMatch(/^\/begin\/x+\.\.x+\/end {2}a {6}1$/)
    expect(lines[3]).toMatch(/^b +cc {4}22$/)
    expect(Math.max(...lines.map((line) => line.length))).toBe(100)
  })

  it('lines up over any number of rows, in linear time', () => {
    const rows = Array.from({ length: 5000 }, (_, i) => [`/layer.${i}`, String(i)])
    const lines = textTable(['name', 'n'], rows).split('\n')
    expect(lines).toHaveLength(5002)
    expect(new Set(lines.slice(1).map((line) => line.length)).size).toBe(1)
  })

  it('shortens to the width asked for, keeping both ends', () => {
    fc.assert(
      fc.property(fc.string(), fc.integer({ min: 5, max: 40 }), (text, width) => {
        const short = shortenMiddle(text, width)
        expect([...short].length).toBe(Math.min([...text].length, width))
        expect(short.startsWith([...text].slice(0, 2).join(''))).toBe(true)
      }),
    )
  })
})

describe('numbers as text', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [9999, '10.0 kB'],
    [99_960, '100 kB'],
    [999_400, '999 kB'],
    [999_600, '1.00 MB'],
    [5_368_709_120, '5.37 GB'],
  ])('%d bytes are %s', (bytes, text) => {
    expect(bytesText(bytes)).toBe(text)
  })

  it.each([
    [950, '950'],
    [1_234_567, '1.23 M'],
  ])('%d is %s', (count, text) => {
    expect(countText(count)).toBe(text)
  })

  it.each([
    [undefined, '-'],
    [0, '0'],
    [0.000123456, '1.2e-4'],
    [0.0123456, '0.0123'],
    [-1.23456, '-1.23'],
    [123.456, '123'],
    [12_345_678, '1.2e7'],
    [Number.POSITIVE_INFINITY, 'inf'],
    [Number.NaN, 'nan'],
  ])('%d is %s', (value, text) => {
    expect(figureText(value)).toBe(text)
  })
})

describe('the terminal', () => {
  const stream = (isTTY: boolean, columns = 100) => ({ isTTY, columns }) as NodeJS.WriteStream
  const withEnvironment = (name: string, value: string, act: () => void) => {
    const saved = { NO_COLOR: process.env.NO_COLOR, CI: process.env.CI }
    delete process.env.NO_COLOR
    delete process.env.CI
    process.env[name] = value
    act()
    delete process.env[name]
    for (const [key, old] of Object.entries(saved)) if (old !== undefined) process.env[key] = old
  }

  it.each([
    ['CI', 'true', true, false],
    ['CI', 'false', true, true],
    ['CI', '', true, true],
    ['NO_COLOR', '1', true, false],
    ['NO_COLOR', '', true, true],
    ['CI', '', false, false],
  ])('with %s=%s and a terminal: %s is lively: %s', (name, value, isTTY, lively) => {
    withEnvironment(name, value, () => expect(isLively(stream(isTTY))).toBe(lively))
  })

  it('is not lively without any width', () => {
    withEnvironment('CI', '', () => expect(isLively(stream(true, 0))).toBe(false))
  })

  it('shows control characters as text, newlines too unless lines are wanted', () => {
    expect(printable('a\tb\nc\u009bd\u202e')).toBe('a\\x09b\\x0ac\\x9bd\\x202e')
    expect(printable('a\nb', true)).toBe('a\nb')
  })
})

describe('progress', () => {
  it('has counts, and the time left once there is something to go by', () => {
    const event = { stage: 'quantize', done: 25, total: 100, item: '/layer.3/MatMul' } as const
    expect(describeProgress(event, 500)).toBe('quantizing 25/100  /layer.3/MatMul')
    expect(describeProgress(event, 20_000)).toBe(
      'quantizing 25/100  60 s left  /layer.3/MatMul'.replace('60 s', '1 min 0 s'),
    )
    expect(describeProgress({ ...event, done: 100 }, 20_000)).toBe('quantizing 100/100  /layer.3/MatMul')
    expect(describeProgress({ stage: 'write', done: 50, total: 100 }, 2 * 3_600_000)).toBe(
      'writing 50/100  2 h 00 min left',
    )
  })
})

describe('progress of a calibration', () => {
  it('has the layers, the time left, the layer and the current error', () => {
    const event = { stage: 'calibrate', done: 6, total: 24, item: '/layer.3/MatMul', detail: 'error 0.0031' } as const
    expect(describeProgress(event, 30_000)).toBe('calibrating 6/24  1 min 30 s left  /layer.3/MatMul  error 0.0031')
    expect(describeProgress({ ...event, detail: `\u001b${'x'.repeat(100)}` }, 0)).toMatch(
      /^calibrating 6\/24 {2}\/layer\.3\/MatMul {2}\\x1b[x.]{36}$/,
    )
  })
})

describe('values', () => {
  it('reads a percentage as its share, without noise', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 100_000 }), (thousandths) => {
        const percent = thousandths / 1000
        expect(readShare('--x')(`${percent}%`, undefined)).toBe(thousandths / 100_000)
      }),
    )
  })

  it('finds the name that was meant', () => {
    const names = ['budget', 'bits', 'groupSize', 'externalData']
    expect(nearestName('Bits', names)).toBe('bits')
    expect(nearestName('bist', names)).toBe('bits')
    expect(nearestName('groupsize', names)).toBe('groupSize')
    expect(nearestName('group_size', names)).toBe('groupSize')
    expect(nearestName('colour', names)).toBeUndefined()
  })
})
