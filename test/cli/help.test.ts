import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { BUILT, FAKE, runQtool } from './spawnQtool.ts'

describe('help', () => {
  it.each([['--help'], ['quantize', '--help'], ['eval', '--help'], ['analyze', '--help']])('%s %s', async (...args) => {
    const { code, stdout, stderr } = await runQtool(BUILT, args)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatchSnapshot()
  })

  it('is shown on stderr, with exit code 2, when nothing was asked', async () => {
    const { code, stdout, stderr } = await runQtool(BUILT, [])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain('Usage: qtool')
    expect(stderr).toContain('Exit codes')
  })

  it('gives the version of the package', async () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8'))
    expect(await runQtool(BUILT, ['--version'])).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' })
  })

  it('starts fast, because it loads nothing heavy', () => {
    const times = Array.from({ length: 5 }, () => {
      const start = performance.now()
      spawnSync(process.execPath, [...BUILT, '--help'])
      return performance.now() - start
    })
    expect(Math.min(...times)).toBeLessThan(400)
  })

  it('has examples that a shell and the commands accept', async () => {
    const pages = await Promise.all(
      ['quantize', 'eval', 'analyze'].map(async (name) => (await runQtool(BUILT, [name, '--help'])).stdout),
    )
    const examples = pages
      .join('\n')
      .replaceAll(/\\\n\s+/g, '')
      .match(/^ {2}qtool (quantize|eval|analyze) .*$/gm)!
    expect(examples.length).toBeGreaterThanOrEqual(8)
    const qtool = [process.execPath, ...FAKE].map((word) => `'${word}'`).join(' ')
    for (const example of new Set(examples)) {
      const { status, stderr } = spawnSync('sh', ['-c', `qtool() { ${qtool} "$@"; }\n${example}`], { encoding: 'utf8' })
      expect({ example, stderr, understood: status === 0 || status === 1 }).toMatchObject({ understood: true })
    }
  })
})
