import { spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { BUILT, FAKE, runQtool } from './spawnQtool.ts'

const FOLDER = mkdtempSync(join(tmpdir(), 'qtool-endings-'))
afterAll(() => rmSync(FOLDER, { recursive: true }))

/** A folder of its own for one run's output, and a wait for the run to be under way. */
function outputFolder() {
  const folder = mkdtempSync(join(FOLDER, 'run-'))
  const started = async () => {
    while (!existsSync(join(folder, 'started'))) await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return { folder, output: join(folder, 'out.onnx'), started }
}

describe.concurrent('a run that ends well', () => {
  it('prints tables on stdout and warnings on stderr, without colour or spinner where there is no terminal', async () => {
    const { code, stdout, stderr } = await runQtool(FAKE, ['quantize', 'ok.onnx', '-o', 'o.onnx'])
    expect(code).toBe(0)
    expect(stdout).toContain('model.onnx 9.00 MB -> small.onnx 2.10 MB')
    expect(stderr).toBe("warning: layer pattern '*nothing*' matches no layer\n")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
    expect(stdout).not.toMatch(/[\u001b\r]/)
  })

  it('prints one JSON document with --json, infinite numbers as null, and nothing else with --quiet', async () => {
    const { code, stdout, stderr } = await runQtool(FAKE, ['eval', 'a', 'b', '--random', '2', '--json', '--quiet'])
    const document = JSON.parse(stdout)
    expect(document).toMatchObject({ schemaVersion: 1, kind: 'eval', passed: false })
    expect(document.outputs[1].sqnr).toBeNull()
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
  })
})

describe.concurrent('a run that fails', () => {
  it('of an unknown cause gives 70, a short message and no stack', async () => {
    const { code, stderr } = await runQtool(FAKE, ['analyze', 'bug.onnx'])
    expect(code).toBe(70)
    expect(stderr).toContain('internal error: x is not iterable')
    expect(stderr).toContain('please report')
    expect(stderr).not.toContain('secret.ts')
  })

  it('shows the stack to developers', async () => {
    const { code, stderr } = await runQtool(FAKE, ['analyze', 'bug.onnx'], undefined, { QTOOL_DEBUG: '1' })
    expect(code).toBe(70)
    expect(stderr).toContain('at secret.ts:1')
  })

  it.each(['gone.onnx', 'thrown.onnx'])('by losing its worker (%s) gives 70', async (model) => {
    const { code, stdout, stderr } = await runQtool(FAKE, ['analyze', model, '--json'])
    expect(code).toBe(70)
    expect(stderr).toContain('internal error')
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'error', code: 'internal', exitCode: 70 })
  })

  it('shows control characters of hostile names as text', async () => {
    const { code, stderr } = await runQtool(FAKE, ['analyze', 'hostile.onnx'])
    expect(code).toBe(3)
    expect(stderr).toContain('tensor \\x1b[31mred\\x0d is bad')
  })

  it('for want of its file gives 3 from the built program', async () => {
    for (const args of [['analyze'], ['quantize', '-o', join(FOLDER, 'x.onnx')]]) {
      const { code, stdout, stderr } = await runQtool(BUILT, [args[0]!, join(FOLDER, 'missing.onnx'), ...args.slice(1)])
      expect({ code, stdout }).toEqual({ code: 3, stdout: '' })
      expect(stderr).toContain('missing.onnx')
      expect(stderr).not.toContain('    at ')
    }
  })
})

describe.concurrent('a reader that closes the pipe', () => {
  it('is not an error', async () => {
    const { code, stderr } = await runQtool(
      FAKE,
      ['quantize', 'big.onnx', '-o', 'o.onnx', '--quiet', '--json'],
      (child) => {
        child.stdout!.once('data', () => child.stdout!.destroy())
      },
    )
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  })
})

describe.skipIf(!existsSync('/dev/full'))('a disk that is full behind standard output', () => {
  it.each([[], ['--json']])('gives 2 and one line %j', (...flags) => {
    const model = join(import.meta.dirname, '../../fixtures/models/matmul.onnx')
    const full = openSync('/dev/full', 'w')
    const { status, stderr } = spawnSync(process.execPath, [BUILT.at(-1)!, 'analyze', model, ...flags.flat()], {
      stdio: ['ignore', full, 'pipe'],
      encoding: 'utf8',
    })
    closeSync(full)
    expect(status).toBe(2)
    expect(stderr).toBe('error: cannot write to standard output: ENOSPC\n')
  })
})

describe.concurrent('an interrupt', () => {
  it.each(['SIGINT', 'SIGTERM'] as const)('%s ends the run at its next checkpoint, with 130', async (signal) => {
    const { output, started } = outputFolder()
    const { code, stdout, stderr } = await runQtool(
      FAKE,
      ['quantize', 'slow.onnx', '-o', output, '--json'],
      (child) => {
        void started().then(() => child.kill(signal))
      },
    )
    expect(code).toBe(130)
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'error', code: 'interrupted', exitCode: 130 })
    expect(stderr).toContain('error: interrupted')
  })

  it('twice ends a run that does not listen, and removes its temporary files only', async () => {
    const { folder, output, started } = outputFolder()
    writeFileSync(join(folder, '.out.onnx.1.zzz.tmp'), 'of another process')
    const start = performance.now()
    const { code } = await runQtool(FAKE, ['quantize', 'stuck.onnx', '-o', output], (child) => {
      void started().then(() => {
        child.kill('SIGINT')
        setTimeout(() => child.kill('SIGINT'), 100)
      })
    })
    expect(code).toBe(130)
    expect(performance.now() - start).toBeLessThan(10_000)
    expect(readdirSync(folder).sort()).toEqual(['.out.onnx.1.zzz.tmp', 'started'])
  })

  it('leaves no activations, half statistics or half progress either, and says how to go on', async () => {
    const { output, started } = outputFolder()
    const others = ['scratch', 'stats', 'resume'].map((name) => mkdtempSync(join(FOLDER, `${name}-`)))
    const [scratch, stats, resume] = others as [string, string, string]
    writeFileSync(join(resume, 'r'), 'progress')
    const calibration = [
      '--data',
      'x',
      '--scratch',
      scratch,
      '--stats',
      join(stats, 's'),
      '--resume',
      join(resume, 'r'),
    ]
    const { code, stderr } = await runQtool(FAKE, ['quantize', 'stuck.onnx', '-o', output, ...calibration], (child) => {
      void started().then(() => {
        expect(others.map((folder) => readdirSync(folder).length)).toEqual([1, 1, 2])
        child.kill('SIGINT')
        setTimeout(() => child.kill('SIGINT'), 100)
      })
    })
    expect(code).toBe(130)
    expect(stderr).toContain(`hint: the same command goes on from what ${join(resume, 'r')} holds`)
    expect(others.map((folder) => readdirSync(folder))).toEqual([[], [], ['r']])
  })

  it('once ends a run that does not listen after three seconds', async () => {
    const { folder, output, started } = outputFolder()
    let sent = 0
    const { code } = await runQtool(FAKE, ['quantize', 'stuck.onnx', '-o', output], (child) => {
      void started().then(() => {
        sent = performance.now()
        child.kill('SIGINT')
      })
    })
    expect(code).toBe(130)
    expect(performance.now() - sent).toBeGreaterThan(2500)
    expect(performance.now() - sent).toBeLessThan(12_000)
    expect(readdirSync(folder)).toEqual(['started'])
  })
})
