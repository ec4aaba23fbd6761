/** What is printed of rotations and importance. */
import { describe, expect, it } from 'vitest'
import { quantizeText } from '../../src/commands/quantizeText.ts'
import { rsqText } from '../../src/commands/rsqText.ts'
import type { RsqReport } from '../../src/report.ts'
import { CALIBRATED_REPORT } from './sampleReports.ts'

const none = { difference: undefined, loss: undefined, change: undefined, standardError: undefined }
const REPORT: RsqReport = {
  trials: [
    { ...none, name: 'as it is', loss: 0.0421, kept: true },
    {
      name: 'stream of 576 channels, 61 writers, 211 readers, seed 3',
      difference: 2.34e-6,
      loss: 0.0305,
      change: -0.2755,
      standardError: 0.0312,
      kept: true,
    },
    {
      name: 'heads of 30 attentions, seed 0',
      difference: 1e-7,
      loss: 0.031,
      change: 0.0164,
      standardError: 0.02,
      kept: false,
    },
    { ...none, name: 'importance by attention', loss: 0.03, change: -0.0164, standardError: Number.NaN, kept: false },
  ],
  importance: undefined,
  refused: ['b0/sum: it is read by a convolution'],
  notes: ['tokens of 2 layers count the same'],
}

describe('what rsq did, as text', () => {
  it('is a table of trials, then what was refused, then notes', () => {
    expect(rsqText(REPORT)).toMatchInlineSnapshot(`
      "tried on held-out samples                                exact to    loss           change  kept
      -------------------------------------------------------  --------  ------  ---------------  ----
      as it is                                                        -  0.0421                -  yes
      stream of 576 channels, 61 writers, 211 readers, seed 3    2.3e-6  0.0305  -27.6 % ± 3.1 %  yes
      heads of 30 attentions, seed 0                             1.0e-7   0.031    1.6 % ± 2.0 %  no
      importance by attention                                         -    0.03       -1.6 % ± -  no
      not rotated: b0/sum: it is read by a convolution
      note: tokens of 2 layers count the same"
    `)
  })

  it('has no figures of what was not compared', () => {
    const text = rsqText({
      ...REPORT,
      trials: [{ ...none, name: 'importance by first', kept: true }],
      refused: [],
      notes: [],
    })
    expect(text.split('\n').at(-1)).toMatch(/^importance by first +- +- +- {2}yes$/)
  })

  it('is without a table where nothing was tried, and empty where there is nothing to say', () => {
    const bare = { ...REPORT, trials: [], refused: [], notes: ['nothing is rotated: it has no residual stream'] }
    expect(rsqText(bare)).toBe('note: nothing is rotated: it has no residual stream')
    expect(rsqText({ ...bare, notes: [] })).toBe('')
  })

  it('stands before the totals of a report', () => {
    const parts = quantizeText({ ...CALIBRATED_REPORT, rsq: REPORT }).split('\n\n')
    const before = quantizeText(CALIBRATED_REPORT).split('\n\n')
    expect(parts.at(-1)).toBe(before.at(-1))
    expect(parts.filter((part) => !before.includes(part)).join('\n\n')).toBe(rsqText(REPORT))
  })

  // Red until quantizeText leaves an empty part out: then `fails` goes.
  it('leaves no gap in a report where there is nothing to say', () => {
    const silent = quantizeText({ ...CALIBRATED_REPORT, rsq: { ...REPORT, trials: [], refused: [], notes: [] } })
    expect(silent).toBe(quantizeText(CALIBRATED_REPORT))
  })

  it('cannot be faked by names in a model, and fits 100 columns', () => {
    const name = `x\n\u001b[2Jverified\r${'y'.repeat(150)}`
    const text = rsqText({
      trials: [{ ...REPORT.trials[1]!, name }],
      importance: undefined,
      refused: [`${name}: why`],
      notes: [name],
    })
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
    expect(text).not.toMatch(/[\u001b\r]/)
    expect(text).not.toMatch(/^verified/m)
    for (const line of text.split('\n').slice(0, 3)) expect(line.length).toBeLessThanOrEqual(100)
  })
})
