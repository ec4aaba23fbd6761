/**
 * @file Analysis files: written so that equal analyses are equal bytes, read with every field checked, and shards of one
 * joined to what an unsharded run writes.
 */
import fs from 'node:fs'
import { canonicalJson, fromJson } from '../calibration/canonicalJson.ts'
import { differences } from '../calibration/fingerprint.ts'
import { QtoolError } from '../errors.ts'
import { checkOutput } from '../onnx/outputFiles.ts'
import { reasonOf } from '../onnx/readAt.ts'
import { writeTextFile } from '../onnx/textFile.ts'
import type { Analysis, AnalysisFingerprint, MeasuredLayer } from './analysis.ts'
import { comparePairs, MEASURE_AGAIN, parseAnalysis } from './analysisFields.ts'

/**
 * Write an analysis: JSON on one line, properties in the order of their names. It appears when it is complete.
 * @throws QtoolError `output` when it exists and `force` is false, or cannot be written.
 */
export function writeAnalysis(file: string, analysis: Analysis, force: boolean): void {
  checkOutput([file], { force, sources: [] })
  writeTextFile(file, `${canonicalJson(analysis)}\n`)
}

/**
 * Read an analysis.
 * @throws QtoolError `usage` for something else than an analysis, or one of another version; `data` for a file that cannot
 *   be read or is damaged, naming the field.
 */
export function readAnalysis(file: string): Analysis {
  let text: string
  try {
    text = fs.readFileSync(file, 'utf8')
  } catch (cause) {
    throw new QtoolError('data', `cannot read the analysis ${file}: ${reasonOf(cause)}`, { cause })
  }
  let value: unknown
  try {
    value = fromJson(text)
  } catch (cause) {
    const hint = `name a file that qtool analyze -o wrote, or ${MEASURE_AGAIN}`
    throw new QtoolError('data', `${file} is no complete JSON text, wanted an analysis`, { hint, cause })
  }
  return parseAnalysis(file, value)
}

/**
 * May this analysis decide for a run?
 * @param here of the run
 * @param name of the file, for messages
 * @returns what to warn of: other data or settings than the run's; undefined when there is nothing.
 * @throws QtoolError `usage` for a shard, or the analysis of another model.
 */
export function checkAnalysis(
  { fingerprint, shard }: Analysis,
  here: AnalysisFingerprint,
  name = 'the analysis',
): string | undefined {
  if (shard) {
    throw new QtoolError('usage', `${name} is ${partOf(shard)} of an analysis, wanted all of it`, {
      hint: 'join the parts first: qtool analyze --merge FILE… -o FILE',
    })
  }
  if (fingerprint.model !== here.model) {
    throw new QtoolError('usage', `${name} is of another model`, { hint: `name its analysis, or ${MEASURE_AGAIN}` })
  }
  // Labels decide only where both have some.
  const { labels, ...there } = fingerprint
  const { labels: own, ...rest } = here
  const both = labels !== undefined && own !== undefined
  const changed = differences(both ? { ...fingerprint } : there, both ? { ...here } : rest)
  return changed.length === 0 ? undefined : `${name} was measured with other settings or data: ${changed.join(', ')}`
}

/**
 * Join the shards 1/n … n/n of one analysis, in any order. Written, the result is byte for byte what a run without `--shard`
 * writes. What speaks of the whole network (levels, blocks, drawn configurations) may be in some shards or in all of
 * them, and is then the same; each layer and each pair is in one.
 * @param names of the files, for messages.
 * @throws QtoolError `usage` when they are no shards, not of one analysis, or some are missing or there twice; `data` when
 *   what they say of each other's layers does not fit.
 */
export function mergeAnalyses(analyses: readonly Analysis[], names: readonly string[]): Analysis {
  const [first, ...others] = analyses
  if (!first) throw new QtoolError('usage', 'there are no analyses to merge')
  checkShards(analyses, names)
  for (const [i, other] of others.entries()) checkSame(first, other, names[0]!, names[i + 1]!)
  const merged: Analysis = {
    ...first,
    shard: null,
    layers: mergeLayers(analyses, names),
    levels: common(analyses, names, 'levels'),
    blocks: common(analyses, names, 'blocks'),
    configurations: common(analyses, names, 'configurations') ?? [],
    pairs: mergePairs(analyses),
  }
  return parseAnalysis('the merged analysis', merged)
}

function partOf({ index, count }: { readonly index: number; readonly count: number }): string {
  return `part ${index + 1}/${count}`
}

function checkShards(analyses: readonly Analysis[], names: readonly string[]): void {
  const nameOf = new Map<number, string>()
  let count: number | undefined
  for (const [i, { shard }] of analyses.entries()) {
    const name = names[i]!
    if (!shard) {
      throw new QtoolError('usage', `${name} is a whole analysis, wanted parts to merge`, {
        hint: 'parts are made by qtool analyze --shard 1/4 and so on',
      })
    }
    count ??= shard.count
    if (shard.count !== count) {
      throw new QtoolError('usage', `${name} is one of ${shard.count} parts, ${names[0]} one of ${count}`, {
        hint: 'merge the parts of one analysis',
      })
    }
    const other = nameOf.get(shard.index)
    if (other !== undefined) throw new QtoolError('usage', `${partOf(shard)} is there twice: ${other} and ${name}`)
    nameOf.set(shard.index, name)
  }
  const missing = Array.from({ length: count! }, (_, index) => index).filter((index) => !nameOf.has(index))
  if (missing.length === 0) return
  const parts = missing.map((index) => `${index + 1}/${count}`)
  throw new QtoolError(
    'usage',
    `of ${count} parts to merge there ${parts.length === 1 ? 'is' : 'are'} missing: ${parts.join(', ')}`,
    {
      hint: `measure what is missing: qtool analyze MODEL --data … --shard ${parts[0]} -o FILE`,
    },
  )
}

function checkSame(first: Analysis, other: Analysis, firstName: string, name: string): void {
  const textOf = ({ fingerprint, samples, accuracy, qtoolVersion, metric, sensitivities, layerCount }: Analysis) => ({
    ...fingerprint,
    'version of qtool': qtoolVersion,
    metric,
    samples: canonicalJson(samples),
    'accuracy of the original': canonicalJson(accuracy),
    sensitivities: sensitivities.join(' '),
    'number of layers': String(layerCount),
  })
  const changed = differences(textOf(other), textOf(first))
  if (changed.length === 0) return
  throw new QtoolError(
    'usage',
    `${name} is not of the same analysis as ${firstName}, it differs in: ${changed.join(', ')}`,
    {
      hint: 'measure all parts with one version of qtool from the same model, data and settings',
    },
  )
}

function mergeLayers(analyses: readonly Analysis[], names: readonly string[]): MeasuredLayer[] {
  const layers: MeasuredLayer[] = []
  const fileOf: string[] = []
  for (const [i, { layers: own }] of analyses.entries()) {
    for (const layer of own) {
      const other = fileOf[layer.place]
      if (other !== undefined)
        throw new QtoolError('usage', `${layer.name} is there twice: in ${other} and ${names[i]}`)
      fileOf[layer.place] = names[i]!
      layers[layer.place] = layer
    }
  }
  const count = analyses[0]!.layerCount
  const missing = Array.from({ length: count }, (_, place) => place).find((place) => fileOf[place] === undefined)
  if (missing === undefined) return layers
  throw new QtoolError('usage', `layer ${missing + 1} of ${count} is in none of ${names.join(', ')}`, {
    hint: 'the parts were not cut alike; measure all of them with one version of qtool',
  })
}

/** What all shards that have it agree on; null when none has it. */
function common<K extends 'levels' | 'blocks' | 'configurations'>(
  analyses: readonly Analysis[],
  names: readonly string[],
  key: K,
): Analysis[K] | null {
  const found = analyses.flatMap((analysis, i) => {
    const value = analysis[key]
    return value === null || value.length === 0 ? [] : [{ value, text: canonicalJson(value), name: names[i]! }]
  })
  const [first] = found
  const other = found.find(({ text }) => text !== first!.text)
  if (other) {
    throw new QtoolError('usage', `${other.name} and ${first!.name} have different ${key}`, {
      hint: 'measure all parts with one version of qtool, on machines of one kind',
    })
  }
  // An empty list is not "not measured".
  return first ? first.value : (analyses.find((analysis) => analysis[key] !== null)?.[key] ?? null)
}

function mergePairs(analyses: readonly Analysis[]): Analysis['pairs'] {
  if (analyses.every(({ pairs }) => pairs === null)) return null
  return analyses.flatMap(({ pairs }) => pairs ?? []).sort(comparePairs)
}
