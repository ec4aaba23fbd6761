/** The import table: which folder of src may import which. A wrong import is a design change and belongs here first. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'

const SRC = path.resolve(import.meta.dirname, '../src')

/** Root files that anyone may import. */
const LEAVES = ['errors', 'progress', 'random', 'version', 'nearestName']
/** Types only: no code flows along these. */
const TYPE_LEAVES = ['config', 'report']

// biome-ignore format: one folder a line, as docs.test.ts reads it.
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  threads: [],
  quant: ['threads'],
  onnx: ['quant'],
  bitalloc: ['quant'],
  data: ['quant'],
  runtime: ['data', 'onnx'],
  linalg: ['runtime'],
  hessian: ['linalg', 'runtime'],
  gptq: ['hessian', 'quant', 'runtime', 'threads'],
  eval: ['data', 'onnx', 'quant', 'runtime'],
  calibration: ['data', 'eval', 'hessian', 'onnx', 'quant', 'runtime'],
  verify: ['data', 'onnx', 'quant', 'runtime'],
  codebook: ['calibration', 'gptq', 'hessian', 'linalg', 'onnx', 'quant', 'runtime', 'threads'],
  rsq: ['calibration', 'data', 'eval', 'onnx', 'quant', 'runtime'],
  quantize: ['bitalloc', 'calibration', 'codebook', 'config', 'data', 'eval', 'gptq', 'hessian', 'onnx', 'quant', 'report', 'rsq', 'runtime', 'threads', 'verify'],
  analyze: ['bitalloc', 'calibration', 'codebook', 'config', 'data', 'eval', 'hessian', 'onnx', 'quant', 'quantize', 'report', 'runtime'],
  commands: ['bitalloc', 'config', 'configRules', 'pipeline', 'report'],
}

/** The only folders or files that may import a package. */
const PACKAGE_OWNERS: Readonly<Record<string, readonly string[]>> = {
  'onnx-buf': ['onnx/proto.ts'],
  '@bufbuild/protobuf': ['onnx/'],
  'onnxruntime-node': ['runtime/'],
  mathjs: ['bitalloc/budget.ts'],
  highs: ['bitalloc/integerProgram.ts'],
  picomatch: ['bitalloc/overrides.ts', 'data/paths.ts'],
  commander: ['commands/'],
  ora: ['commands/'],
  'cli-table3': ['commands/'],
  fflate: ['data/npz.ts'],
  '@huggingface/tokenizers': ['data/tokenizer.ts'],
  sharp: ['data/imageSource.ts'],
}

interface Import {
  readonly file: string
  readonly target: string
  readonly typeOnly: boolean
}

function importsOf(file: string): Import[] {
  const text = fs.readFileSync(path.join(SRC, file), 'utf8')
  const found: Import[] = []
  for (const match of text.matchAll(/^(?:import|export)\s+(type\s)?[^;'"]*?from\s+'([^']+)'/gm)) {
    found.push({ file, target: match[2]!, typeOnly: match[1] !== undefined })
  }
  for (const match of text.matchAll(/import\('([^']+)'\)/g)) found.push({ file, target: match[1]!, typeOnly: false })
  return found
}

const files = fs.readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
const imports = files.flatMap(importsOf)

/** Top folder of a file in src, or the file's own name without ending. */
const roomOf = (file: string) => (file.includes('/') ? file.split('/')[0]! : file.replace(/\.ts$/, ''))

describe('imports', () => {
  it('go where the table says', () => {
    const wrong = imports.flatMap(({ file, target, typeOnly }) => {
      if (!target.startsWith('.')) return []
      const from = roomOf(file)
      const to = roomOf(path.posix.normalize(path.posix.join(path.posix.dirname(file), target)))
      const allowed = ALLOWED[from]
      if (from === to || !allowed || LEAVES.includes(to) || allowed.includes(to)) return []
      if (typeOnly && TYPE_LEAVES.includes(to)) return []
      return [`${file} imports ${target}`]
    })
    expect(wrong).toEqual([])
  })

  it('of packages stay with their owners', () => {
    const wrong = imports.filter(({ file, target }) => {
      const owned = Object.entries(PACKAGE_OWNERS).find(([name]) => target === name || target.startsWith(`${name}/`))
      return owned && !owned[1].some((owner) => file.startsWith(owner))
    })
    expect(wrong.map(({ file, target }) => `${file} imports ${target}`)).toEqual([])
  })

  it('see every folder of src in the table', () => {
    const rooms = [...new Set(files.filter((file) => file.includes('/')).map(roomOf))]
    expect(rooms.filter((room) => !ALLOWED[room])).toEqual([])
  })
})

describe('src', () => {
  it('prints, reads the environment and exits in commands only', () => {
    const wrong = files.filter((file) => {
      if (file.startsWith('commands/')) return false
      return /\bconsole\.|process\.(exit|env|argv|stdout|stderr)/.test(fs.readFileSync(path.join(SRC, file), 'utf8'))
    })
    expect(wrong).toEqual([])
  })

  it('has no file over 400 lines', () => {
    const long = files.filter((file) => fs.readFileSync(path.join(SRC, file), 'utf8').split('\n').length > 400)
    expect(long).toEqual([])
  })
})
