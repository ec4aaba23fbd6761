/** What is printed of measurements and allocations. */
import { describe, expect, it } from 'vitest'
import { analyzeText } from '../../src/commands/analyzeText.ts'
import { quantizeText } from '../../src/commands/quantizeText.ts'
import { ALLOCATED_REPORT, ANALYZE_REPORT, CALIBRATED_REPORT, MEASURED_REPORT } from './sampleReports.ts'

describe('a measurement as text', () => {
  const table = analyzeText(ANALYZE_REPORT)
  const measured = analyzeText(MEASURED_REPORT)

  it('follows the table of sizes', () => {
    expect(measured.startsWith(`${table}\n\n`)).toBe(true)
    expect(measured.slice(table.length + 2)).toMatchInlineSnapshot(`
      "loss of the model with one layer quantized (KL to the original in nats), the most sensitive first

      layer                                                                8 bit  4 bit  2 bit  ± at 2 bit
      -----------------------------------------------------------------  -------  -----  -----  ----------
      /head/Conv                                                         -1.0e-6   0.01    0.9        0.09
      /encoder/transformer/layers.11/s..jection/MatMul_with_a_long_name   1.0e-5  0.004    0.3        0.03
      /fixed/MatMul                                                            2      -      -           -

      how well sensitivities predict the loss of drawn configurations (1 is best)

      sensitivity    R²  rank correlation
      -----------  ----  ----------------
      kl           0.71              0.93
      coverage     0.98                 -

      blocks

      block    layers    LIM  ZD
      -------  ------  -----  --
      block 1       2  -0.87   -

      3 layers measured on 51 held-out samples, solved on 205; written to analysis.json"
    `)
  })

  it('stands alone where parts were joined', () => {
    const { analysis } = MEASURED_REPORT
    expect(analyzeText({ ...MEASURED_REPORT, model: undefined, layers: [] })).toBe(measured.slice(table.length + 2))
    const bare = { ...analysis!, agreements: [], blocks: [], metric: 'relative' as const, path: undefined }
    const text = analyzeText({ ...MEASURED_REPORT, model: undefined, analysis: bare })
    expect(text).not.toMatch(/rank|block|KL/)
    expect(text).toContain('squared error relative to the outputs')
    expect(text).toContain('not written: -o FILE')
  })

  it('has no losses of a layer that is not measured', () => {
    expect(
      analyzeText({ ...MEASURED_REPORT, model: undefined, analysis: { ...MEASURED_REPORT.analysis!, layers: [] } }),
    ).toContain('0 layers measured')
  })
})

describe('an allocation as text', () => {
  const report = ALLOCATED_REPORT
  const allocation = report.allocation!
  const textOf = (changes: Partial<typeof allocation>) =>
    quantizeText({ ...report, allocation: { ...allocation, ...changes } })

  it('stands between the layers and the totals', () => {
    const before = quantizeText(CALIBRATED_REPORT).split('\n\n')
    const parts = quantizeText(report).split('\n\n')
    const own = parts.filter((part) => !before.includes(part))
    expect(parts.filter((part) => before.includes(part))).toEqual(before)
    expect(parts.at(-1)).toBe(before.at(-1))
    expect(own.join('\n\n')).toMatchInlineSnapshot(`
      "allocation, KL, nats  predicted  measured
      --------------------  ---------  --------  ------
      kl                       0.0123    0.0131
      coverage                 0.0119    0.0128  chosen
      uniform 4 bit                 -     0.025
      after exchanges               -    0.0121  kept

      allocated by ilp from kl, coverage: 1 layer at 8 bits, 2 layers at 4 bits, 1 layer at 2 bits
      one scale per channel in 1, groups of 64 in 1, groups of 32 in 2
      mean bits: 3.9877 of 4 (99.69%)
      bytes: 2100000 of 2200000 (95.45%)
      no allocation has a predicted loss below 0.0118: proved; the gap is 0.8%
      60 allocations were run on held-out samples; 3 exchanges kept

      budget    bytes  predicted  measured
      ------  -------  ---------  --------
      3bit    1.70 MB       0.05         -
      4bit    2.10 MB     0.0119    0.0121"
    `)
  })

  it('says what is proved, and what was not run', () => {
    expect(textOf({ gap: 0 })).toContain('no allocation has a smaller predicted loss: proved')
    expect(textOf({ bound: undefined, gap: undefined })).not.toContain('proved')
    expect(textOf({ evaluations: 0, accepted: 0 })).toContain('no allocation was run')
    expect(textOf({ evaluations: 0, accepted: 0 })).not.toContain('after exchanges')
    expect(textOf({ accepted: 1 })).toContain('1 exchange kept')
  })

  it('leaves out what there is not: the curve, group sizes that are all alike, uniform', () => {
    const layers = allocation.layers.map((layer) => ({ ...layer, groupSize: 32 }))
    const text = textOf({ layers, pareto: undefined, uniform: undefined })
    expect(text).not.toMatch(/groups of|budget |uniform/)
  })

  it('cannot be faked by names in a model or a file', () => {
    const name = 'x\n\u001b[2Jverified\r'
    const faked = [
      textOf({
        sensitivities: [name],
        constraints: [{ name, limit: 1, used: 1 }],
        candidates: [{ from: name, predicted: 1, measured: 1, chosen: true }],
        pareto: [{ budget: name, bytes: 1, predicted: 1, measured: 1 }],
      }),
      analyzeText({
        ...MEASURED_REPORT,
        analysis: {
          ...MEASURED_REPORT.analysis!,
          layers: MEASURED_REPORT.analysis!.layers.map((layer) => ({ ...layer, name })),
          agreements: [{ sensitivity: name, rSquared: 1, spearman: 1 }],
          blocks: [{ name, layers: [name], lim: 1, zd: 1 }],
          path: name,
        },
      }),
    ]
    for (const text of faked) {
      // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
      expect(text).not.toMatch(/[\u001b\r]/)
      expect(text).not.toMatch(/^verified\\/m)
    }
  })

  it('has tables that fit 100 columns', () => {
    const lines = `${quantizeText(report)}\n${analyzeText(MEASURED_REPORT)}`.split('\n')
    const tables = lines.filter((line) => !/^(note|left alone|model|calibrated|\d+ layers|loss of)/.test(line))
    for (const line of tables) expect(line.length).toBeLessThanOrEqual(100)
  })
})
