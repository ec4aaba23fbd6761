/** Calibration through the built program: flags, files beside the output, exit codes, an interrupt. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { useTempDir } from '../helpers/tempDir.ts'
import { outputsOf, relativeError, smallModel, writeCase, writeSamples } from '../quantize/calibratedModels.ts'
import { BUILT, runQtool } from './spawnQtool.ts'

const directory = useTempDir()

function caseOf(name: string, samples = 60) {
  const model = smallModel(name)
  const { folder, model: source, data } = writeCase(directory, model, samples)
  const at = (file: string) => path.join(folder, file)
  const qtool = (...args: string[]) => runQtool(BUILT, ['quantize', source, '--bits', '3', '--threads', '1', ...args])
  return { model, folder, source, data, at, qtool, files: () => fs.readdirSync(folder).sort() }
}

describe.concurrent('qtool quantize --data', { timeout: 60_000 }, () => {
  it('writes a better model, and statistics that do without data', async () => {
    const { model, source, data, at, qtool, files } = caseOf('MLP')
    const [stats, out] = [at('run.stats'), at('out.onnx')]
    const done = await qtool('-o', out, '--data', data, '--stats', stats, '--json')
    expect(done).toMatchObject({ code: 0, stderr: '' })
    const report = JSON.parse(done.stdout)
    expect(report.calibration).toMatchObject({ samples: 60, heldOut: 12, groups: 3, source: data })
    expect(report.layers[0].calibration).toMatchObject({ solver: 'gptq', biasCorrected: true })
    expect((await qtool('-o', at('rtn.onnx'), '--method', 'rtn')).code).toBe(0)
    expect((await qtool('-o', at('stats.onnx'), '--stats', stats)).code).toBe(0)
    const fresh = model.draw(100, 999)
    const reference = await outputsOf(source, model, fresh)
    const error = async (file: string) => relativeError(reference, await outputsOf(at(file), model, fresh))
    const rounded = await error('rtn.onnx')
    for (const file of ['out.onnx', 'stats.onnx']) expect(await error(file), file).toBeLessThan(0.5 * rounded)
    expect(files()).toEqual(['data.npy', 'model.onnx', 'out.onnx', 'rtn.onnx', 'run.stats', 'stats.onnx'])
  })

  it('goes on after an interrupt', async () => {
    const { data, at, qtool, files } = caseOf('transformer', 120)
    const args = ['-o', at('out.onnx'), '--data', data, '--resume', at('progress')]
    const stopped = await runQtool(
      BUILT,
      ['quantize', at('model.onnx'), '--bits', '3', '--threads', '1', ...args],
      async (child) => {
        // The first layers are on the disk as soon as the file is longer than its header.
        const header = 1024
        while (child.exitCode === null && (fs.statSync(at('progress'), { throwIfNoEntry: false })?.size ?? 0) < header)
          await new Promise((resolve) => setTimeout(resolve, 5))
        child.kill('SIGINT')
      },
    )
    expect(stopped.code).toBe(130)
    expect(files()).toEqual(['data.npy', 'model.onnx', 'progress'])
    expect((await qtool(...args)).code).toBe(0)
    expect((await qtool('-o', at('whole.onnx'), '--data', data)).code).toBe(0)
    expect(fs.readFileSync(at('out.onnx')).equals(fs.readFileSync(at('whole.onnx')))).toBe(true)
    expect(files()).toEqual(['data.npy', 'model.onnx', 'out.onnx', 'whole.onnx'])
  })

  it('says what is wrong with data and flags, by message and exit code', async () => {
    const { model, data, at, qtool, files } = caseOf('MLP')
    const { values, ...rest } = model.draw(20, 1)
    const bad = writeSamples(at('bad.npy'), { ...rest, values: values.map((v, i) => (i === 64 * 5 ? Number.NaN : v)) })
    fs.writeFileSync(at('old.stats'), 'something')
    const before = files()
    const failures = [
      [4, /NaN.*sample 5/, '--data', bad],
      [2, /old\.stats, which exists/, '--data', data, '--stats', at('old.stats')],
      [4, /old\.stats/, '--stats', at('old.stats')],
      [2, /holdout is given without data/, '--holdout', '0.1'],
      [2, /method rtn looks at the weights alone/, '--data', data, '--method', 'rtn'],
    ] as const
    for (const [exitCode, message, ...args] of failures) {
      const { code, stdout, stderr } = await qtool('-o', at('out.onnx'), ...args)
      expect({ code, stdout }, args.join(' ')).toEqual({ code: exitCode, stdout: '' })
      expect(stderr).toMatch(message)
    }
    expect(files()).toEqual(before)
  })
})
