import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Analysis } from '../../src/analyze/analysis.ts'
import { parseAnalysis } from '../../src/analyze/analysisFields.ts'
import { checkAnalysis, mergeAnalyses, readAnalysis, writeAnalysis } from '../../src/analyze/analysisFile.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { plantedAnalysis, plantedVectors, quadraticGame } from './analyses.ts'

const directory = useTempDir()
const at = (name: string) => path.join(directory, name)

const [L, B] = [5, 2]
const vectors = plantedVectors(L, B, 3)
const planted = plantedAnalysis({ game: quadraticGame(vectors), layers: L, candidates: B, sketches: vectors, drawn: 3 })
/** With numbers that JSON has no words for. */
const whole: Analysis = {
  ...planted,
  layers: planted.layers.map((layer, l) => ({
    ...layer,
    candidates: layer.candidates.map((candidate, k) =>
      l + k === 3 ? { ...candidate, loss: { mean: Number.POSITIVE_INFINITY, standardError: null } } : candidate,
    ),
  })),
}

function bytesOf(analysis: Analysis, name = 'bytes.json'): string {
  writeAnalysis(at(name), analysis, true)
  return fs.readFileSync(at(name), 'utf8')
}

describe('a file', () => {
  test('gives back what was written', () => {
    writeAnalysis(at('a.json'), whole, false)
    expect(readAnalysis(at('a.json'))).toEqual(whole)
    expect(fs.readdirSync(directory).filter((name) => name.endsWith('.tmp'))).toEqual([])
  })

  test('is the same for equal analyses, in whatever order they were made', () => {
    const turned = Object.fromEntries(Object.entries(whole).reverse()) as unknown as Analysis
    expect(bytesOf(turned)).toBe(bytesOf(whole))
    expect(bytesOf(readAnalysis(at('bytes.json')))).toBe(bytesOf(whole))
    expect(bytesOf(whole).endsWith('}\n')).toBe(true)
  })

  test('is replaced by force only', () => {
    writeAnalysis(at('b.json'), whole, false)
    const error = expectQtoolError('output', () => writeAnalysis(at('b.json'), planted, false), 'b.json exists')
    expect(error.hint).toContain('--force')
    expect(readAnalysis(at('b.json'))).toEqual(whole)
    writeAnalysis(at('b.json'), planted, true)
    expect(readAnalysis(at('b.json'))).toEqual(planted)
  })

  test('that cannot be finished leaves nothing behind', () => {
    const broken = {
      toJSON() {
        throw new Error('no text')
      },
    }
    expect(() => writeAnalysis(at('c.json'), { ...whole, qtoolVersion: broken as unknown as string }, false)).toThrow(
      'no text',
    )
    expect(fs.readdirSync(directory).filter((name) => name.includes('c.json'))).toEqual([])
  })

  test('that cannot be read, or is none', () => {
    const write = (name: string, text: string) => fs.writeFileSync(at(name), text)
    expectQtoolError('data', () => readAnalysis(at('absent.json')), 'absent.json')
    expectQtoolError('data', () => readAnalysis(directory), directory)
    write('cut.json', bytesOf(whole).slice(0, 500))
    expectQtoolError('data', () => readAnalysis(at('cut.json')), 'cut.json')
    write('binary.json', '\u0008\u0007\n\n')
    expectQtoolError('data', () => readAnalysis(at('binary.json')), 'binary.json')
    for (const text of ['[]', '3', 'null', '{"kind":"plan"}', '{}']) {
      write('other.json', text)
      expectQtoolError('usage', () => readAnalysis(at('other.json')), 'other.json is not an analysis')
    }
  })

  test('of another version', () => {
    const read = (schemaVersion: number) => () => parseAnalysis('v.json', { kind: 'analysis', schemaVersion })
    expect(expectQtoolError('usage', read(2), 'v.json', 'version 2').hint).toContain('update qtool')
    expect(expectQtoolError('usage', read(0), 'v.json', 'version 0').hint).toMatch(/^measure again/)
  })
})

/** All places in a JSON value, as keys from the root. */
function placesIn(value: unknown): (string | number)[][] {
  if (typeof value !== 'object' || value === null) return [[]]
  const inside = Array.isArray(value) ? value.map((part, i) => [i, part] as const) : Object.entries(value)
  return [[], ...inside.flatMap(([key, part]) => placesIn(part).map((rest) => [key, ...rest]))]
}

/** A copy with one place changed; undefined: taken away. */
function changed(value: unknown, [key, ...rest]: readonly (string | number)[], to: unknown): unknown {
  if (key === undefined) return to
  if (Array.isArray(value)) return value.map((part, i) => (i === key ? changed(part, rest, to) : part))
  const entries = Object.entries(value as object)
  return Object.fromEntries(entries.map(([k, part]) => [k, k === key ? changed(part, rest, to) : part]))
}

const pathText = (place: readonly (string | number)[]) =>
  place
    .map((key) => (typeof key === 'number' ? `[${key}]` : `.${key}`))
    .join('')
    .slice(1)

describe('a damaged field', () => {
  const small = plantedAnalysis({ game: quadraticGame(vectors), layers: 3, candidates: 2, drawn: 1 })
  const places = placesIn(small).filter(([key]) => key !== undefined && key !== 'kind')

  test.each([
    ['of another type', { x: 1 }],
    ['missing', undefined],
    ['not a number', Number.NaN],
    ['true', true],
  ])('%s is named, wherever it is', (_, value) => {
    for (const place of places) {
      const text = pathText(place)
      // Files of before there were labels have none.
      if (value === undefined && (place.at(-1) === 'labels' || place.at(-1) === 'accuracy')) continue
      // A shard that is an object is looked into.
      const inside = place.at(-1) === 'shard' || place.at(-1) === 'fingerprint' || place.at(-1) === 'samples'
      if (inside && value !== undefined && typeof value === 'object') continue
      const error = expectQtoolError('data', () => parseAnalysis('x.json', changed(small, place, value)), 'x.json: ')
      expect(error.message.startsWith(`x.json: ${text}`), `${text}: ${error.message}`).toBe(true)
      expect(error.hint).toContain('qtool analyze')
    }
  })

  test.each([
    [['layers', 0, 'candidates', 1, 'bits'], 7, 'want one of 8, 6, 5, 4, 3, 2, found 7'],
    [['layers', 0, 'candidates', 1, 'groupSize'], 0, 'at least 1'],
    [['layers', 0, 'candidates', 1, 'squaredError'], -1, 'at least 0'],
    [['layers', 0, 'candidates', 1, 'loss', 'mean'], Number.NEGATIVE_INFINITY, 'finite'],
    [['layers', 0, 'candidates'], [], 'at least one'],
    [['layers', 0, 'weights'], 0, 'at least 1'],
    [['layers', 0, 'sketches', 1], 'AAAA', 'float32'],
    [['layers', 0, 'sketches', 1], 'AA!!AA==', 'float32'],
    [['layers', 0, 'sketches', 1], 'AAAAAA==', 'as many numbers'],
    [['layers', 0, 'sketches'], ['AAAAAA==', 'AAAAAA=='], 'as the other layers'],
    [['layers', 0, 'sketches'], [], '2, one per candidate'],
    [['layers', 0, 'leaveOneOut'], [1], '2 losses, one per level'],
    [['layers', 1, 'place'], 2, 'want 1, found 2'],
    [['layers', 1, 'name'], 'layer 0', 'no layer before'],
    [['layerCount'], 4, 'all 4 layers'],
    [['levels', 0, 'choice', 1], 2, 'below 2'],
    [['levels', 0, 'choice'], [0, 0], '3 candidates'],
    [['configurations', 0, 'choice', 1], 2, 'below 2'],
    [['blocks', 0, 'layers', 1], 'layer 9', 'name of a layer'],
    [['pairs', 0], [0, 0, 0, 1, 0], 'two layers'],
    [['pairs', 0], [0, 2, 1, 0, 0], 'two layers'],
    [['pairs', 0], [0, 0, 3, 0, 0], 'two layers'],
    [['pairs', 0], [0, 0, 1, 0], '[layer, candidate'],
    [['pairs', 1], [0, 0, 1, 0, 0], 'rising order'],
    [['shard'], { index: 2, count: 2 }, 'below 2'],
    [['sensitivities', 0], 'magic', 'one of kl'],
  ] as const)('%j = %j', (place, value, want) => {
    expectQtoolError('data', () => parseAnalysis('x.json', changed(small, [...place], value)), 'x.json: ', want)
  })

  test.each([
    [[0, 0], 'layers[1].place: want above 0'],
    [[1, 0], 'layers[1].place: want above 1'],
    [[1, 3], 'below 3, found 3'],
  ])('places %j of a shard', (found, want) => {
    const layers = found.map((place, i) => ({ ...small.layers[i]!, place }))
    const shard = { ...small, shard: { index: 0, count: 2 }, layers, pairs: null, levels: null, configurations: [] }
    expectQtoolError('data', () => parseAnalysis('x.json', shard), want)
  })

  test('what this version does not know is left out', () => {
    expect(parseAnalysis('x.json', { ...small, later: 1 })).toEqual(small)
  })
})

describe('the analysis of a run', () => {
  const here = whole.fingerprint

  test('fits the same model, data and settings', () => {
    expect(checkAnalysis(whole, { ...here })).toBeUndefined()
  })

  test('of another model is refused', () => {
    const error = expectQtoolError('usage', () => checkAnalysis(whole, { ...here, model: 'cc' }, 'a.json'), 'a.json')
    expect(error.hint).toContain('qtool analyze')
  })

  test('of other data or settings is warned of', () => {
    const settings = '{"seed":0,"seqLen":512}'
    expect(checkAnalysis(whole, { ...here, data: 'dd', settings }, 'a.json')).toBe(
      'a.json was measured with other settings or data: data, seqLen (256 instead of 512)',
    )
  })

  test('in part is refused', () => {
    const shard = { ...whole, shard: { index: 1, count: 4 } }
    const error = expectQtoolError('usage', () => checkAnalysis(shard, here, 'b.json'), 'b.json is part 2/4')
    expect(error.hint).toContain('--merge')
  })
})

/** The part of an analysis that one shard measures. */
function shardOf(analysis: Analysis, index: number, count: number, changes: Partial<Analysis> = {}): Analysis {
  const own = (place: number) => place % count === index
  return {
    ...analysis,
    shard: { index, count },
    layers: analysis.layers.filter(({ place }) => own(place)),
    pairs: analysis.pairs?.filter(([first]) => own(first)) ?? null,
    ...changes,
  }
}

describe('merging', () => {
  const names = ['a.json', 'b.json', 'c.json']
  const shards = [0, 1, 2].map((index) => shardOf(whole, index, 3))

  test.each([1, 2, 3, 5, 8])('%d shards are the whole, byte for byte, in any order', (count) => {
    const files = Array.from({ length: count }, (_, index) => {
      writeAnalysis(at(`${count}-${index}.json`), shardOf(whole, index, count), false)
      return at(`${count}-${index}.json`)
    })
    const rotated = [...files.slice(1), files[0]!].reverse()
    for (const order of [files, rotated]) {
      const merged = mergeAnalyses(order.map(readAnalysis), order)
      expect(bytesOf(merged)).toBe(bytesOf(whole))
    }
  })

  test('what speaks of the whole network may be in some shards only', () => {
    const without = { levels: null, blocks: null, configurations: [] }
    const some = [shardOf(whole, 0, 3, without), shards[1]!, shardOf(whole, 2, 3, without)]
    expect(bytesOf(mergeAnalyses(some, names))).toBe(bytesOf(whole))
    const bare = { ...whole, ...without, pairs: null }
    const none = [0, 1, 2].map((index) => shardOf(bare, index, 3))
    expect(bytesOf(mergeAnalyses(none, names))).toBe(bytesOf(bare))
    const empty = { ...bare, blocks: [] }
    const noBlocks = [0, 1, 2].map((index) => shardOf(empty, index, 3))
    expect(bytesOf(mergeAnalyses(noBlocks, names))).toBe(bytesOf(empty))
  })

  test('says which parts are missing, or twice', () => {
    const error = expectQtoolError('usage', () => mergeAnalyses([shards[1]!], names), 'are missing: 1/3, 3/3')
    expect(error.hint).toContain('--shard 1/3')
    expectQtoolError('usage', () => mergeAnalyses([shards[0]!, shards[2]!], names), 'is missing: 2/3')
    const twice = [shards[0]!, shards[1]!, shards[1]!]
    expectQtoolError('usage', () => mergeAnalyses(twice, names), 'part 2/3 is there twice: b.json and c.json')
  })

  test('refuses what are no parts of one analysis', () => {
    const other = (changes: Partial<Analysis>) => () =>
      mergeAnalyses([shards[0]!, { ...shards[1]!, ...changes }, shards[2]!], names)
    expectQtoolError('usage', () => mergeAnalyses([], []), 'no analyses')
    expectQtoolError('usage', () => mergeAnalyses([whole], names), 'a.json is a whole analysis')
    expectQtoolError('usage', other({ shard: { index: 1, count: 4 } }), 'b.json is one of 4 parts, a.json one of 3')
    const { fingerprint } = whole
    expectQtoolError('usage', other({ fingerprint: { ...fingerprint, model: 'x' } }), 'b.json', 'a.json', 'model')
    expectQtoolError('usage', other({ fingerprint: { ...fingerprint, data: 'x' } }), 'b.json', 'data')
    const settings = '{"seed":1,"seqLen":256}'
    expectQtoolError('usage', other({ fingerprint: { ...fingerprint, settings } }), 'seed (1 instead of 0)')
    expectQtoolError('usage', other({ qtoolVersion: '9' }), 'b.json', 'version of qtool')
    expectQtoolError('usage', other({ metric: 'relative' }), 'metric')
    expectQtoolError('usage', other({ samples: { fitted: 1, heldOut: 1 } }), 'fitted (1 instead of 20)')
    expectQtoolError('usage', other({ sensitivities: ['kl'] }), 'sensitivities')
    expectQtoolError('usage', other({ layerCount: 6 }), 'number of layers')
    const levels = whole.levels!.map((level) => ({ ...level, loss: level.loss * 2 }))
    expectQtoolError('usage', other({ levels }), 'b.json and a.json have different levels')
    expectQtoolError('usage', other({ configurations: levels }), 'different configurations')
    expectQtoolError('usage', other({ blocks: whole.blocks!.slice(1) }), 'different blocks')
  })

  test('refuses parts that were cut differently', () => {
    const other = (changes: Partial<Analysis>) => () =>
      mergeAnalyses([shards[0]!, { ...shards[1]!, ...changes }, shards[2]!], names)
    expectQtoolError('usage', other({ layers: [] }), 'layer 2 of 5')
    expectQtoolError(
      'usage',
      other({ layers: whole.layers.slice(1, 3) }),
      'layer 2 is there twice: in b.json and c.json',
    )
    expectQtoolError('data', other({ pairs: shards[0]!.pairs }), 'the merged analysis', 'each once')
  })

  test('finds what no part could know: choices of layers of others', () => {
    const levels = whole.levels!.map((level) => ({ ...level, choice: level.choice.with(4, 7) }))
    const wrong = { ...whole, levels }
    const parts = [0, 1, 2].map((index) => shardOf(wrong, index, 3))
    expect(() => parseAnalysis('a.json', parts[0])).not.toThrow()
    expectQtoolError('data', () => mergeAnalyses(parts, names), 'levels[0].choice[4]')
  })
})
