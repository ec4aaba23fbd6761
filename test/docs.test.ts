/** What README and docs say is held against the tool: their examples run, and what they list exists. */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { parseBudgets } from '../src/bitalloc/budget.ts'
import { main } from '../src/commands/cli.ts'
import { gatherConfig } from '../src/commands/configFile.ts'
import { ANALYZE_DEFAULTS, EVAL_DEFAULTS, QUANTIZE_DEFAULTS } from '../src/config.ts'
import { writeNpy } from './oracles/npy.ts'

const ROOT = path.resolve(import.meta.dirname, '..')
const PAGES = ['README.md', 'CONTRIBUTING.md', ...fs.readdirSync(path.join(ROOT, 'docs')).map((name) => `docs/${name}`)]
const read = (page: string) => fs.readFileSync(path.join(ROOT, page), 'utf8')

interface Block {
  readonly page: string
  readonly language: string
  readonly text: string
}

const blocks: readonly Block[] = PAGES.flatMap((page) =>
  [...read(page).matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language, text]) => ({
    page,
    language: language!,
    text: text!,
  })),
)
const blocksIn = (...languages: string[]) => blocks.filter(({ language }) => languages.includes(language))

describe('library examples', () => {
  // Inside the package, so that `qtool` means the package itself, through its `exports`: the built files and their types.
  const folder = path.join(ROOT, 'dist', `docs-examples-${process.pid}`)
  const examples = blocksIn('ts').map((block, i) => ({ ...block, folder: path.join(folder, String(i)), i }))

  let printed: string[] = []
  let failure = ''

  beforeAll(() => {
    const inputs = writeNpy(
      'f4',
      [4, 64],
      Array.from({ length: 256 }, (_, i) => Math.sin(i)),
    )
    for (const example of examples) {
      fs.mkdirSync(example.folder, { recursive: true })
      fs.writeFileSync(path.join(example.folder, 'example.ts'), example.text)
      fs.writeFileSync(path.join(example.folder, 'inputs.npy'), inputs)
      fs.copyFileSync(path.join(ROOT, 'fixtures/models/matmul.onnx'), path.join(example.folder, 'model.onnx'))
    }
    // With the root named and the output elsewhere, `qtool` resolves to the declarations in dist.
    const compilerOptions = { noEmit: true, rootDir: ROOT, outDir: 'none' }
    const config = { extends: '../../tsconfig.json', compilerOptions, include: ['*/example.ts'], exclude: [] }
    fs.writeFileSync(path.join(folder, 'tsconfig.json'), JSON.stringify(config))
    // One process for all, each example in its own directory.
    const lines = examples.map(
      ({ i }) => `process.chdir('../${i}')\nconsole.log('example')\nawait import('./${i}/example.ts')`,
    )
    fs.writeFileSync(path.join(folder, 'all.mjs'), `process.chdir('0')\n${lines.join('\n')}\n`)
    const args = ['--import', 'tsx', 'all.mjs']
    const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' })
    printed = stdout.split('example\n').slice(1)
    failure = stderr
  })
  afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

  it('are there', () => {
    expect(new Set(examples.map(({ page }) => page))).toEqual(new Set(['README.md', 'docs/LIBRARY.md']))
  })

  it('have the types of the built package', () => {
    const tsc = path.join(ROOT, 'node_modules/typescript/bin/tsc')
    const { stdout } = spawnSync(process.execPath, [tsc, '-p', folder], { encoding: 'utf8' })
    expect(stdout).toBe('')
  })

  it('run to their end', () => {
    expect({ failure, ran: printed.length }).toEqual({ failure: '', ran: examples.length })
  })

  it.each(examples)('$page, block $i, prints what it says', ({ i, text }) => {
    const promised = [...text.matchAll(/^\s*\/\/ → (.*)$/gm)].map((match) => match[1])
    expect(printed[i]).toBeTruthy()
    if (promised.length > 0) expect(printed[i]!.trimEnd().split('\n')).toEqual(promised)
  })
})

describe('command lines', () => {
  const ECHO = new URL('./cli/echoWorker.mjs', import.meta.url)
  const commands = blocksIn('sh', 'yaml').flatMap(({ page, text }) =>
    [...text.replaceAll(/\\\n\s*/g, '').matchAll(/^(?:- run: )?npx qtool (.*?)(?: > \S+)?(?: +#.*)?$/gm)].map(
      ([, line]) => ({
        page,
        line: line!,
      }),
    ),
  )
  afterEach(() => vi.restoreAllMocks())

  /** The words of a command line whose only quoting is single quotes. */
  const words = (line: string) => [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!)

  it('are there', () => {
    expect(commands.length).toBeGreaterThanOrEqual(5)
  })

  it.each(commands)('$page: qtool $line', async ({ line }) => {
    const answer: string[] = []
    const complaints: string[] = []
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => answer.push(String(text)) > 0)
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => complaints.push(String(text)) > 0)
    // The worker gives the task back, so that only what was understood counts, not whether the files exist.
    const argv = words(line)
    const code = await main(argv.includes('--json') ? argv : [...argv, '--json'], ECHO)
    expect({ code, complaints: complaints.join('') }).toEqual({ code: 0, complaints: '' })
    // The pipeline reads the budget.
    const { budget } = JSON.parse(answer.join('')).task.config
    if (budget !== undefined) parseBudgets(budget)
  })

  it('mention only flags that some command has', async () => {
    const help: string[] = []
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => help.push(String(text)) > 0)
    for (const command of ['quantize', 'eval', 'analyze']) await main([command, '--help'], ECHO)
    vi.restoreAllMocks()
    const known = new Set(help.join('').match(/--[a-z][a-z-]+/g))
    const wrong = PAGES.flatMap((page) =>
      [...read(page).matchAll(/`(--[a-z][a-z-]+)[^`…]*`/g)]
        .map((match) => match[1]!)
        .filter((flag) => !known.has(flag))
        .map((flag) => `${page}: ${flag}`),
    )
    expect(wrong).toEqual([])
  })
})

describe('configuration files', () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'qtool-docs-'))
  afterAll(() => fs.rmSync(folder, { recursive: true }))

  it('in CONFIG.md are accepted', () => {
    const files = blocksIn('json').filter(({ page }) => page === 'docs/CONFIG.md')
    expect(files).toHaveLength(1)
    const file = path.join(folder, 'qtool.json')
    fs.writeFileSync(file, files[0]!.text)
    expect(gatherConfig('quantize', {}, file)).toMatchObject({ budget: '4bit' })
    expect(gatherConfig('eval', {}, file)).toMatchObject({ thresholds: { minAgreement: 0.99, maxSize: 5_000_000 } })
  })

  it('have every key in a row of CONFIG.md', () => {
    const rows = [...read('docs/CONFIG.md').matchAll(/^\| (.*?) \|/gm)].flatMap(([, cell]) =>
      [...cell!.matchAll(/`(\w+)`/g)].map((match) => match[1]),
    )
    const keys = [
      ...[QUANTIZE_DEFAULTS, EVAL_DEFAULTS, ANALYZE_DEFAULTS].flatMap((defaults) => Object.keys(defaults)),
      ...['budget', 'bits', 'groupSize', 'labels', 'normalize', 'analysis', 'maxKl', 'maxLatency', 'latency'],
      ...['pareto', 'savePlan', 'plan', 'output', 'shard'],
    ]
    expect(keys.filter((key) => !rows.includes(key))).toEqual([])
  })
})

describe('what the pages name', () => {
  it('exists: links between pages', () => {
    const broken = PAGES.flatMap((page) =>
      [...read(page).matchAll(/\]\(([^):#]+)\)/g)]
        .map((match) => match[1]!)
        .filter((link) => !fs.existsSync(path.join(ROOT, path.dirname(page), link)))
        .map((link) => `${page}: ${link}`),
    )
    expect(broken).toEqual([])
  })

  it('exists: files of the repository', () => {
    const missing = PAGES.flatMap((page) =>
      [...read(page).matchAll(/`((?:src|test|bench|fixtures|bin)\/[\w./-]*)`/g)]
        .map((match) => match[1]!)
        .filter((file) => !fs.existsSync(path.join(ROOT, file)))
        .map((file) => `${page}: ${file}`),
    )
    expect(missing).toEqual([])
  })

  it('are the files of bin and src, one line each, in CONTRIBUTING.md', () => {
    let folder = ''
    const listed = blocksIn('tree')
      .flatMap(({ text }) => text.trimEnd().split('\n'))
      .flatMap((line) => {
        const [, name, about] = /^ {2}(\S+) +(\S.*)$/.exec(line) ?? []
        if (name && about) return [folder + name]
        folder = line
        return []
      })
    const actual = ['bin', 'src'].flatMap((top) =>
      fs
        .readdirSync(path.join(ROOT, top), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => path.relative(ROOT, path.join(entry.parentPath, entry.name)).replaceAll('\\', '/')),
    )
    expect([...listed].sort()).toEqual([...actual].sort())
  })

  it('is the import table of architecture.test.ts, in ARCHITECTURE.md', () => {
    const source = read('test/architecture.test.ts')
    const page = read('docs/ARCHITECTURE.md')
    const names = (text: string) => [...text.matchAll(/[`']([^`']+)[`']/g)].map((match) => match[1]!)
    for (const [constant, header] of [
      ['ALLOWED', /^\| folder +\| may import +\|$/m],
      ['PACKAGE_OWNERS', /^\| package +\| imported by +\|$/m],
    ] as const) {
      const literal = new RegExp(`const ${constant}[^=]*= \\{\\n(.*?)\\n\\}`, 's').exec(source)![1]!
      const wanted = literal.split('\n').map((line) => {
        const [, key, values] = /^ *'?([^':]+)'?: (.*),$/.exec(line)!
        return [key, ...names(values!)]
      })
      const rows = page.slice(page.search(header)).split('\n\n')[0]!.split('\n').slice(2)
      expect(rows.map((row) => names(row).map((name) => name.replace(/^src\//, '')))).toEqual(wanted)
    }
  })
})
