/** @file What an analysis file must look like: every field is looked at before anything is allocated from it. */
import { QtoolError } from '../errors.ts'
import { BITS } from '../quant/quantizedWeight.ts'
import {
  ANALYSIS_VERSION,
  type Analysis,
  type MeasuredBlock,
  type MeasuredCandidate,
  type MeasuredConfiguration,
  type MeasuredLayer,
  SENSITIVITIES,
} from './analysis.ts'
import { formOf } from './codebookField.ts'
import { Field } from './field.ts'

/** What to do about a file that cannot be used. */
export const MEASURE_AGAIN = 'measure again: qtool analyze MODEL --data … -o FILE'

/**
 * An analysis from decoded JSON. Fields that this version does not know are left out.
 * @param name of the file, for messages.
 * @throws QtoolError `usage` for something else than an analysis, or one of another version; `data`, naming the field, for
 *   values that cannot be.
 */
export function parseAnalysis(name: string, value: unknown): Analysis {
  const root = new Field(name, value, `the file is damaged, or was edited; ${MEASURE_AGAIN}`)
  if (!root.isObject() || root.get('kind').value !== 'analysis') {
    throw new QtoolError('usage', `${name} is not an analysis`, {
      hint: 'name a file that qtool analyze -o wrote',
    })
  }
  checkVersion(name, root.get('schemaVersion').count())
  const layerCount = root.get('layerCount').count()
  const layers = root.get('layers').list(layerOf)
  const shard = root.get('shard').orNull(shardOf)
  checkLayers(root.get('layers'), layers, layerCount, shard !== null)
  const configurationOf = configurationsOver(layers, layerCount)
  const levels = root.get('levels').orNull((field) => field.list(configurationOf))
  for (const [i, { leaveOneOut }] of layers.entries()) {
    if (levels === null || leaveOneOut === null || leaveOneOut.length === levels.length) continue
    throw root.get('layers').at(i).get('leaveOneOut').wrong(`${levels.length} losses, one per level`)
  }
  return {
    schemaVersion: ANALYSIS_VERSION,
    kind: 'analysis',
    qtoolVersion: root.get('qtoolVersion').text(),
    fingerprint: {
      model: root.get('fingerprint').get('model').text(),
      data: root.get('fingerprint').get('data').text(),
      settings: root.get('fingerprint').get('settings').text(),
      ...(root.get('fingerprint').isAbsent('labels') ? {} : { labels: root.get('fingerprint').get('labels').text() }),
    },
    metric: root.get('metric').oneOf(['kl', 'relative']),
    samples: {
      fitted: root.get('samples').get('fitted').count(),
      heldOut: root.get('samples').get('heldOut').count(),
    },
    accuracy: root.getOrNull('accuracy').orNull(accuracyOf),
    sensitivities: root.get('sensitivities').list((field) => field.oneOf(SENSITIVITIES)),
    shard,
    layerCount,
    layers,
    levels,
    blocks: root.get('blocks').orNull((field) => blocksOf(field, layers, shard !== null)),
    configurations: root.get('configurations').list(configurationOf),
    pairs: root.get('pairs').orNull((field) => pairsOf(field, layers, layerCount)),
  }
}

function checkVersion(name: string, version: number): void {
  if (version === ANALYSIS_VERSION) return
  throw new QtoolError('usage', `${name} is an analysis of version ${version}, this qtool reads ${ANALYSIS_VERSION}`, {
    hint: version > ANALYSIS_VERSION ? `update qtool, or ${MEASURE_AGAIN}` : MEASURE_AGAIN,
  })
}

function shardOf(field: Field): { readonly index: number; readonly count: number } {
  const [index, count] = [field.get('index').count(), field.get('count').count()]
  if (index >= count) throw field.get('index').wrong(`a number below ${count}`)
  return { index, count }
}

function layerOf(field: Field): MeasuredLayer {
  const candidates = field.get('candidates').list(candidateOf)
  if (candidates.length === 0) throw field.get('candidates').wrong('at least one')
  const weights = field.get('weights').count()
  if (weights === 0) throw field.get('weights').wrong('at least 1')
  return {
    place: field.get('place').count(),
    name: field.get('name').text(),
    weight: field.get('weight').text(),
    weights,
    candidates,
    trace: field.get('trace').orNull((trace) => ({
      value: trace.get('value').finite(),
      standardError: trace.get('standardError').atLeastZero(),
      probes: trace.get('probes').count(),
    })),
    sketches: field.get('sketches').orNull((sketches) => sketchesOf(sketches, candidates.length)),
    leaveOneOut: field.get('leaveOneOut').orNull((losses) => losses.list((loss) => loss.loss())),
  }
}

function candidateOf(field: Field): MeasuredCandidate {
  const groupSize = field.get('groupSize')
  if (groupSize.value !== 'channel' && groupSize.count() === 0) throw groupSize.wrong('at least 1')
  return {
    bits: field.get('bits').oneOf(BITS),
    groupSize: groupSize.value === 'channel' ? 'channel' : groupSize.count(),
    symmetric: field.get('symmetric').oneOf(['auto', 'yes', 'no']),
    ...(field.isAbsent('codebook') ? {} : { codebook: formOf(field.get('codebook'), field.get('bits')) }),
    storedBytes: field.get('storedBytes').count(),
    squaredError: field.get('squaredError').atLeastZero(),
    relativeError: field.get('relativeError').atLeastZero(),
    proxy: field.get('proxy').orNull((proxy) => proxy.finite()),
    outputs: field.get('outputs').orNull(measuredOf),
    labels: field.getOrNull('labels').orNull(measuredOf),
    loss: measuredOf(field.get('loss')),
  }
}

function accuracyOf(field: Field): NonNullable<Analysis['accuracy']> {
  const [samples, floatRight] = [field.get('samples').count(), field.get('floatRight').count()]
  if (floatRight > samples) throw field.get('floatRight').wrong(`at most ${samples}`)
  return { samples, floatRight }
}

function measuredOf(field: Field): MeasuredCandidate['loss'] {
  return {
    mean: field.get('mean').loss(),
    standardError: field.get('standardError').orNull((error) => error.atLeastZero()),
  }
}

/** Texts of equally many float32 numbers. */
function sketchesOf(field: Field, count: number): string[] {
  const sketches = field.list((sketch) => sketch.text())
  if (sketches.length !== count) throw field.wrong(`${count}, one per candidate`)
  for (const [k, sketch] of sketches.entries()) {
    const whole = Buffer.byteLength(sketch, 'base64') % Float32Array.BYTES_PER_ELEMENT === 0
    if (!whole || !/^[A-Za-z0-9+/]*={0,2}$/.test(sketch)) throw field.at(k).wrong('float32 numbers as base64')
    if (sketch.length !== sketches[0]!.length) throw field.at(k).wrong('as many numbers as the other sketches')
  }
  return sketches
}

function checkLayers(field: Field, layers: readonly MeasuredLayer[], layerCount: number, isShard: boolean): void {
  if (!isShard && layers.length !== layerCount) throw field.wrong(`all ${layerCount} layers`)
  const names = new Set<string>()
  let sketch: number | undefined
  for (const [i, { place, name, sketches }] of layers.entries()) {
    const known = field.at(i)
    const previous = i === 0 ? -1 : layers[i - 1]!.place
    if (!isShard && place !== i) throw known.get('place').wrong(`${i}`)
    if (place <= previous || place >= layerCount) {
      throw known.get('place').wrong(`above ${previous} and below ${layerCount}`)
    }
    if (names.has(name)) throw known.get('name').wrong('a name that no layer before has')
    names.add(name)
    const length = sketches?.[0]?.length
    sketch ??= length
    if (length !== undefined && length !== sketch)
      throw known.get('sketches').wrong('as long ones as the other layers have')
  }
}

/** Choices of layers that the file has must be among their candidates; those of other shards are not known here. */
function configurationsOver(layers: readonly MeasuredLayer[], layerCount: number) {
  const counts = candidateCounts(layers)
  return (field: Field): MeasuredConfiguration => {
    const choice = field.get('choice').list((option, layer) => {
      const count = counts.get(layer) ?? Number.POSITIVE_INFINITY
      if (option.count() >= count) throw option.wrong(`a candidate below ${count}`)
      return option.count()
    })
    if (choice.length !== layerCount) throw field.get('choice').wrong(`${layerCount} candidates, one per layer`)
    return { choice, loss: field.get('loss').loss() }
  }
}

function blocksOf(field: Field, layers: readonly MeasuredLayer[], isShard: boolean): MeasuredBlock[] {
  const names = new Set(layers.map(({ name }) => name))
  return field.list((block) => ({
    name: block.get('name').text(),
    layers: block.get('layers').list((layer) => {
      if (!isShard && !names.has(layer.text())) throw layer.wrong('the name of a layer')
      return layer.text()
    }),
    lim: block.get('lim').orNull((lim) => lim.finite()),
    zd: block.get('zd').orNull((zd) => zd.finite()),
  }))
}

function pairsOf(field: Field, layers: readonly MeasuredLayer[], layerCount: number) {
  const counts = candidateCounts(layers)
  let before: readonly number[] = []
  return field.list((pair): [number, number, number, number, number] => {
    if (pair.list(() => 0).length !== 5) throw pair.wrong('[layer, candidate, layer, candidate, loss]')
    const [i, k, j, m] = [0, 1, 2, 3].map((at) => pair.at(at).count()) as [number, number, number, number]
    const has = (layer: number, option: number) => option < (counts.get(layer) ?? Number.POSITIVE_INFINITY)
    if (!(i < j && j < layerCount && has(i, k) && has(j, m))) throw pair.wrong('candidates of two layers, in order')
    if (comparePairs(before, [i, k, j, m]) >= 0) throw pair.wrong('pairs in rising order, each once')
    before = [i, k, j, m]
    return [i, k, j, m, pair.at(4).loss()]
  })
}

/** The order of pairs in a file: by layer, candidate, layer, candidate. An empty one comes first. */
export function comparePairs(a: readonly number[], b: readonly number[]): number {
  for (let at = 0; at < 4; at++) {
    const difference = (a[at] ?? -1) - (b[at] ?? -1)
    if (difference !== 0) return difference
  }
  return 0
}

function candidateCounts(layers: readonly MeasuredLayer[]): ReadonlyMap<number, number> {
  return new Map(layers.map(({ place, candidates }) => [place, candidates.length]))
}
