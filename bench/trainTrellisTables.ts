/**
 * @file Trains the tables of src/codebook/trellisTables.ts for a unit normal source, and writes that file.
 *
 *     tsx bench/trainTrellisTables.ts 2 12       # one table, to bench/out/trellis: seconds for window 8, minutes for 12
 *     tsx bench/trainTrellisTables.ts --write    # src/codebook/trellisTables.ts from all that are there
 *
 * Generalized Lloyd (Linde, Buzo & Gray 1980, with the Viterbi search as the nearest-neighbour rule): the best path of each
 * lane, then each level becomes the mean of the samples that took it. Many starts, the better half of which goes on with
 * more samples, because where Lloyd ends depends on the start. Same seed, same file.
 */
import fs from 'node:fs'
import path from 'node:path'
import type { IndexBits, TrellisWindow } from '../src/quant/codebookWeight.ts'
import { makeRandom, type Random } from '../src/random.ts'

const OUT = path.join(import.meta.dirname, 'out/trellis')
const TARGET = path.join(import.meta.dirname, '../src/codebook/trellisTables.ts')
const LANE = 128
const TEST_SAMPLES = { 8: 1 << 19, 12: 1 << 17 } as const

interface Trained {
  readonly bits: IndexBits
  readonly window: TrellisWindow
  readonly unit: number
  readonly error: number
  readonly levels: string
}

interface Search {
  /** Adds the samples to `sum` and `count` of the levels they take. @returns the mean squared error. */
  run(samples: Float64Array, table: Float64Array, sum?: Float64Array, count?: Float64Array): number
}

/** Best paths of lanes that start after zeros and end anywhere. */
function makeSearch(bits: IndexBits, window: TrellisWindow): Search {
  const branches = 1 << bits
  const states = 1 << (window - bits)
  const stride = states >> bits
  const back = new Uint8Array(LANE * states)
  let cost = new Float64Array(states)
  let next = new Float64Array(states)
  const lane = (samples: Float64Array, start: number, table: Float64Array): number => {
    cost.fill(Number.POSITIVE_INFINITY)
    cost[0] = 0
    for (let i = 0; i < LANE; i++) {
      const x = samples[start + i]!
      for (let state = 0; state < states; state++) {
        let best = Number.POSITIVE_INFINITY
        let bestFrom = 0
        let from = state >> bits
        let index = state
        for (let branch = 0; branch < branches; branch++) {
          const d = x - table[index]!
          const c = cost[from]! + d * d
          if (c < best) {
            best = c
            bestFrom = branch
          }
          from += stride
          index += states
        }
        next[state] = best
        back[i * states + state] = bestFrom
      }
      const swap = cost
      cost = next
      next = swap
    }
    let end = 0
    for (let state = 1; state < states; state++) if (cost[state]! < cost[end]!) end = state
    return end
  }
  return {
    run(samples, table, sum, count) {
      let total = 0
      for (let start = 0; start < samples.length; start += LANE) {
        let state = lane(samples, start, table)
        total += cost[state]!
        if (!sum || !count) continue
        for (let i = LANE - 1; i >= 0; i--) {
          const index = state + back[i * states + state]! * states
          sum[index] = sum[index]! + samples[start + i]!
          count[index] = count[index]! + 1
          state = index >> bits
        }
      }
      return total / samples.length
    },
  }
}

function normals(random: Random, count: number): Float64Array {
  return Float64Array.from({ length: count }, () => random.normal())
}

function shuffled(random: Random, count: number): number[] {
  const order = Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1)
    const swap = order[i]!
    order[i] = order[j]!
    order[j] = swap
  }
  return order
}

/**
 * Quantiles of a normal in one of two orders: any, or such that each state has one level from each of 2^bits slices of the
 * distribution, which more bits like better.
 */
function startTable(random: Random, bits: IndexBits, window: TrellisWindow, sliced: boolean): Float64Array {
  const entries = 1 << window
  const spread = 0.95 + 0.15 * random.uniform()
  const quantiles = normals(random, 1 << 16).sort()
  const value = (rank: number) => spread * quantiles[Math.floor(((rank + 0.5) / entries) * quantiles.length)]!
  const table = new Float64Array(entries)
  if (!sliced) {
    for (const [index, rank] of shuffled(random, entries).entries()) table[index] = value(rank)
    return table
  }
  const states = entries >> bits
  for (let slice = 0; slice < 1 << bits; slice++) {
    for (const [state, rank] of shuffled(random, states).entries()) {
      table[(state << bits) | slice] = value(slice * states + rank)
    }
  }
  return table
}

/** One pass over fresh samples; a running mean, so that levels that few samples take are not noise. */
interface Candidate {
  readonly table: Float64Array
  readonly sum: Float64Array
  readonly count: Float64Array
}

function improve(candidate: Candidate, search: Search, random: Random, samples: number, passes: number): void {
  const { table, sum, count } = candidate
  for (let pass = 0; pass < passes; pass++) {
    const keep = pass < passes / 2 ? 0.3 : 0.8
    for (let e = 0; e < table.length; e++) {
      sum[e] = sum[e]! * keep
      count[e] = count[e]! * keep
    }
    search.run(normals(random, samples), table, sum, count)
    for (let e = 0; e < table.length; e++) if (count[e]! > 0.5) table[e] = sum[e]! / count[e]!
  }
}

/** The largest level takes 127, or is clipped to it where finer steps are worth more. */
function round(table: Float64Array, search: Search, test: Float64Array): { levels: Int8Array; unit: number } {
  const largest = table.reduce((most, level) => Math.max(most, Math.abs(level)), 0)
  let best = { levels: new Int8Array(0), unit: 0, error: Number.POSITIVE_INFINITY }
  for (const clip of [1, 0.95, 0.9, 0.85, 0.8]) {
    const unit = Math.round((127 / (clip * largest)) * 1000) / 1000
    const levels = Int8Array.from(table, (level) => Math.max(-127, Math.min(127, Math.round(level * unit))))
    const error = search.run(
      test,
      Float64Array.from(levels, (level) => level / unit),
    )
    if (error < best.error) best = { levels, unit, error }
  }
  return best
}

function train(bits: IndexBits, window: TrellisWindow, starts: number, scale: number): Trained {
  const random = makeRandom(1000 * window + bits)
  const search = makeSearch(bits, window)
  const judge = normals(random, 1 << 15)
  const entries = 1 << window
  let pool = Array.from({ length: starts }, (_, i): Candidate => {
    const table = startTable(random, bits, window, i % 2 === 1)
    return { table, sum: new Float64Array(entries), count: new Float64Array(entries) }
  })
  for (let samples = scale; pool.length > 1; samples *= 2) {
    for (const candidate of pool) improve(candidate, search, random, samples, 8)
    const judged = pool.map((candidate) => ({ candidate, error: search.run(judge, candidate.table) }))
    judged.sort((a, b) => a.error - b.error)
    console.log(
      `${pool.length} left, ${samples} samples: ${judged[0]!.error.toFixed(5)} … ${judged.at(-1)!.error.toFixed(5)}`,
    )
    pool = judged.slice(0, Math.floor(pool.length / 2)).map(({ candidate }) => candidate)
  }
  improve(pool[0]!, search, random, 16 * scale, 8)
  const { levels, unit } = round(pool[0]!.table, search, judge)
  const test = normals(makeRandom(7), TEST_SAMPLES[window])
  const error = search.run(
    test,
    Float64Array.from(levels, (level) => level / unit),
  )
  return { bits, window, unit, error, levels: Buffer.from(levels.buffer).toString('base64') }
}

function write(): void {
  const trained = fs
    .readdirSync(OUT)
    .sort()
    .map((file) => JSON.parse(fs.readFileSync(path.join(OUT, file), 'utf8')) as Trained)
    .sort((a, b) => a.window - b.window || a.bits - b.bits)
  const lines = trained.flatMap(({ bits, window, unit, error, levels }) => [
    '  {',
    `    bits: ${bits},`,
    `    window: ${window},`,
    `    unit: ${unit},`,
    `    error: ${Number(error.toFixed(5))},`,
    '    levels:',
    `      '${levels}',`,
    '  },',
  ])
  fs.writeFileSync(
    TARGET,
    `/**
 * @file Trained levels of trellises, as base64 of int8. Made by \`tsx bench/trainTrellisTables.ts\`; not edited by hand.
 */
import type { IndexBits, TrellisWindow } from '../quant/codebookWeight.ts'

export interface TrainedTrellis {
  readonly bits: IndexBits
  readonly window: TrellisWindow
  /** Levels per standard deviation of the source. */
  readonly unit: number
  /** Mean squared error of a unit normal in lanes of 128 steps. */
  readonly error: number
  /** 2^window int8 values. */
  readonly levels: string
}

export const TRAINED_TRELLISES: readonly TrainedTrellis[] = [
${lines.join('\n')}
]
`,
  )
}

const [first, second] = process.argv.slice(2)
if (first === '--write') write()
else {
  const bits = Number(first) as IndexBits
  const window = Number(second) as TrellisWindow
  const [starts, scale] = process.argv[4]
    ? process.argv.slice(4).map(Number)
    : window === 8
      ? [128, 1 << 13]
      : [8, 1 << 15]
  const start = performance.now()
  const trained = train(bits, window, starts!, scale!)
  fs.mkdirSync(OUT, { recursive: true })
  fs.writeFileSync(path.join(OUT, `${bits}-${window}.json`), JSON.stringify(trained))
  console.log(
    `${bits} bits, window ${window}: ${trained.error.toFixed(5)}, unit ${trained.unit}, ${Math.round(performance.now() - start)} ms`,
  )
}
