/** @file Analyses of planted games: a formula says what every configuration loses, and all figures come from it. */
import {
  ANALYSIS_VERSION,
  type Analysis,
  type MeasuredCandidate,
  type MeasuredLayer,
  SENSITIVITIES,
} from '../../src/analyze/analysis.ts'
import { BITS } from '../../src/quant/quantizedWeight.ts'
import { makeRandom } from '../../src/random.ts'

/** Loss of a configuration; layers that are undefined stay float. */
export type Game = (choice: readonly (number | undefined)[]) => number

/** Every layer at every candidate. */
export function everyChoice(counts: readonly number[]): number[][] {
  return counts.reduce<number[][]>(
    (choices, count) => choices.flatMap((choice) => Array.from({ length: count }, (_, k) => [...choice, k])),
    [[]],
  )
}

interface Planted {
  readonly game: Game
  readonly layers: number
  readonly candidates: number
  /** Drawn configurations. */
  readonly drawn?: number
  /** Of each candidate; exact as float32. */
  readonly sketches?: readonly (readonly Float32Array[])[]
}

/** All figures that an analysis can hold, of a planted game. */
export function plantedAnalysis({ game, layers, candidates, drawn = 12, sketches }: Planted): Analysis {
  const random = makeRandom(layers * 100 + candidates)
  const none = () => new Array<number | undefined>(layers).fill(undefined)
  const levels = Array.from({ length: candidates }, (_, k) => new Array<number>(layers).fill(k))
  const pairs: [number, number, number, number, number][] = []
  for (let i = 0; i < layers; i++) {
    for (let k = 0; k < candidates; k++) {
      for (let j = i + 1; j < layers; j++) {
        for (let m = 0; m < candidates; m++) pairs.push([i, k, j, m, game(none().with(i, k).with(j, m))])
      }
    }
  }
  const candidateOf = (layer: number, k: number): MeasuredCandidate => ({
    bits: BITS[k % BITS.length]!,
    groupSize: k % 2 ? 32 : 'channel',
    symmetric: 'auto',
    storedBytes: 1000 - 10 * k,
    squaredError: 4 ** k * (1 + layer),
    relativeError: (4 ** k * (1 + random.uniform())) / 1000,
    outputs: { mean: (4 ** k * (1 + random.uniform())) / 3000, standardError: null },
    labels: { mean: (4 ** k * (((7 * layer + 3 * k) % 5) - 1)) / 5000, standardError: 0.01 },
    proxy: layer === 0 ? null : (4 ** k * (1 + random.uniform())) / 2000,
    loss: { mean: game(none().with(layer, k)), standardError: k ? random.uniform() : null },
  })
  const layerOf = (place: number): MeasuredLayer => ({
    place,
    name: `layer ${place}`,
    weight: `w${place}`,
    weights: 100 * (place + 1),
    candidates: Array.from({ length: candidates }, (_, k) => candidateOf(place, k)),
    trace: { value: random.normal(), standardError: random.uniform(), probes: 8 },
    sketches: (sketches?.[place] ?? Array.from({ length: candidates }, () => new Float32Array(4))).map((sketch) =>
      Buffer.from(sketch.buffer, sketch.byteOffset, sketch.byteLength).toString('base64'),
    ),
    leaveOneOut: levels.map((level) => game((level as (number | undefined)[]).with(place, undefined))),
  })
  const choices = Array.from({ length: drawn }, () => Array.from({ length: layers }, () => random.below(candidates)))
  return {
    schemaVersion: ANALYSIS_VERSION,
    kind: 'analysis',
    qtoolVersion: '1.2.3',
    fingerprint: { model: 'aa', data: 'bb', settings: '{"seed":0,"seqLen":256}' },
    metric: 'kl',
    samples: { fitted: 20, heldOut: 5 },
    accuracy: { samples: 4, floatRight: 3 },
    sensitivities: [...SENSITIVITIES],
    shard: null,
    layerCount: layers,
    layers: Array.from({ length: layers }, (_, place) => layerOf(place)),
    levels: levels.map((choice) => ({ choice, loss: game(choice) })),
    blocks: [
      { name: 'first', layers: ['layer 0', 'layer 1'], lim: -0.9, zd: 0.15 },
      { name: 'second', layers: ['layer 2'], lim: -0.5, zd: 0.17 },
    ],
    configurations: choices.map((choice) => ({ choice, loss: game(choice) })),
    pairs,
  }
}

/** Losses of single candidates that neither add up to round numbers nor are alike. */
export function plantedSingles(layers: number, candidates: number): number[][] {
  const random = makeRandom(5)
  return Array.from({ length: layers }, () =>
    Array.from({ length: candidates }, (_, k) => 4 ** k * (0.5 + random.uniform()) * 1e-3),
  )
}

/** Losses add up. */
export function additiveGame(singles: readonly (readonly number[])[]): Game {
  return (choice) => choice.reduce<number>((sum, k, l) => (k === undefined ? sum : sum + singles[l]![k]!), 0)
}

/** c·(1 − Π (1 − s/c)), from its definition. */
export function coverageGame(singles: readonly (readonly number[])[], c: number): Game {
  return (choice) => {
    const left = choice.reduce<number>((kept, k, l) => (k === undefined ? kept : kept * (1 - singles[l]![k]! / c)), 1)
    return c * (1 - left)
  }
}

/** ½‖Σ u‖² of the chosen vectors. */
export function quadraticGame(vectors: readonly (readonly Float32Array[])[]): Game {
  return (choice) => {
    const sum = new Float64Array(vectors[0]![0]!.length)
    for (const [l, k] of choice.entries()) {
      if (k !== undefined) for (const [d, value] of vectors[l]![k]!.entries()) sum[d]! += value
    }
    return sum.reduce((total, value) => total + value * value, 0) / 2
  }
}

/** Vectors of each candidate, longer the later. */
export function plantedVectors(layers: number, candidates: number, width: number): Float32Array[][] {
  const random = makeRandom(9)
  return Array.from({ length: layers }, () =>
    Array.from({ length: candidates }, (_, k) => Float32Array.from({ length: width }, () => 2 ** k * random.normal())),
  )
}
