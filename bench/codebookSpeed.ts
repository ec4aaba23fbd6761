/**
 * @file How long the files of `codebook.ts` run and load beside float32 and the 4-bit grid, in turns and in one process. The
 * weights come without data here: times do not depend on what they are.
 */
import { join } from 'node:path'
import { resolveEvalConfig } from '../src/configRules.ts'
import type { FeedTensor } from '../src/data/modelInput.ts'
import { median } from '../src/eval/latency.ts'
import { openEvaluationData } from '../src/eval/openData.ts'
import { quantizeModel } from '../src/pipeline.ts'
import { openSession, type Session } from '../src/runtime/session.ts'
import type { CodebookArm, CodebookModel } from './codebookModels.ts'
import { type CodebookTimes, resultName, withFolder } from './codebookRun.ts'
import { prepareData } from './data.ts'
import { failed } from './mixedRun.ts'
import type { BenchModel } from './modelList.ts'

type Feeds = ReadonlyMap<string, FeedTensor>

/** Names of what all files are compared with. */
export const FLOAT = 'float32'
export const GRID = '4/grid/32'

/** Runs of each file that do not count, and those that count at most. */
const WARM_UP_RUNS = 3
const RUNS = 101
/** Rounds end after this long, but not before the first that counts. Milliseconds. */
const LIMIT = 30_000
const LOADS = 5

/** Files to measure, by name; those that the tool refuses are left out. `accuracyLevel` is the tool's own choice. */
async function writeFiles(
  bench: BenchModel,
  arms: readonly CodebookArm[],
  folder: string,
): Promise<Map<string, string>> {
  const files = new Map([[FLOAT, bench.path]])
  const configs = arms.map((arm) => [resultName(arm), arm.config] as const)
  for (const [name, config] of [[GRID, { method: 'rtn', bits: 4, groupSize: 32 }] as const, ...configs]) {
    const output = join(folder, `${name.replaceAll('/', '-')}.onnx`)
    const { accuracyLevel: _, ...own } = { accuracyLevel: 0, ...config }
    try {
      await quantizeModel(bench.path, output, { ...own, verify: false, force: true })
      files.set(name, output)
    } catch (error) {
      failed(`${bench.name} ${name}`, error)
    }
  }
  return files
}

/** One token or sample, and one sample as calibration has it. Equal inputs are named once. */
async function openFeeds(bench: BenchModel): Promise<Map<string, Feeds>> {
  const session = await openSession(bench.path)
  const config = resolveEvalConfig({ data: [prepareData(bench.data).inputs] })
  const dataset = await openEvaluationData(config, bench.path)(session.inputs)
  await session.dispose()
  const [batch] = dataset.batches(1)
  const feeds = new Map<string, Feeds>([['calibration', batch!.feeds]])
  const ids = batch!.feeds.get('input_ids')
  if (ids) {
    const first = new Map(batch!.feeds).set('input_ids', { ...ids, dims: [1, 1], data: ids.data.slice(0, 1) })
    feeds.set('one', first)
  }
  return feeds
}

/** Median load time of each file, in turns, and the sessions of the last round. */
async function loadAll(files: ReadonlyMap<string, string>) {
  const times = new Map([...files.keys()].map((name) => [name, [] as number[]]))
  const sessions = new Map<string, Session>()
  for (let load = 0; load < LOADS; load++) {
    for (const [name, path] of files) {
      await sessions.get(name)?.dispose()
      const start = performance.now()
      sessions.set(name, await openSession(path))
      times.get(name)!.push(performance.now() - start)
    }
  }
  return { sessions, times }
}

/** Times of all runs of each file, in turns: A B C A B C … */
async function runAll(sessions: ReadonlyMap<string, Session>, feeds: Feeds): Promise<Map<string, number[]>> {
  const times = new Map([...sessions.keys()].map((name) => [name, [] as number[]]))
  const begin = performance.now()
  for (let round = -WARM_UP_RUNS; round < RUNS; round++) {
    if (round > 0 && performance.now() - begin > LIMIT) break
    for (const [name, session] of sessions) {
      const start = performance.now()
      await session.run(feeds)
      if (round >= 0) times.get(name)!.push(performance.now() - start)
    }
  }
  return times
}

/** By {@link resultName}, {@link FLOAT} and {@link GRID}. @param arms codebooks. */
export function measureTimes(
  bench: BenchModel,
  model: CodebookModel,
  arms: readonly CodebookArm[],
): Promise<Readonly<Record<string, CodebookTimes>>> {
  return withFolder(async (folder) => {
    const files = await writeFiles(bench, arms, folder)
    const { sessions, times } = await loadAll(files)
    const runs = new Map([...files.keys()].map((name) => [name, {} as Record<string, number>]))
    for (const [input, feeds] of await openFeeds(bench)) {
      for (const [name, own] of await runAll(sessions, feeds)) runs.get(name)![input] = median(own)
    }
    for (const session of sessions.values()) await session.dispose()
    console.error(`${model.name}: ${files.size} files timed`)
    return Object.fromEntries(
      [...files.keys()].map((name) => [name, { load: median(times.get(name)!), runs: runs.get(name)! }]),
    )
  })
}
