/**
 * @file How long two models take, to load and to run. Both are measured in turns, so that a slow or busy moment of the
 * machine hits both alike, and medians are taken. Milliseconds.
 */
import type { FeedTensor } from '../data/modelInput.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import { openSession, type Session, type SessionOptions } from '../runtime/session.ts'

/** Runs of each model before those that count: caches fill, memory is claimed. */
const WARM_UP_RUNS = 2
/** Measuring stops after this long, whatever number of runs was asked for. */
const LATENCY_LIMIT = 20_000

export interface Pair<T> {
  readonly reference: T
  readonly candidate: T
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return Number.NaN
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/**
 * Median time of one run of each model, in turns: A B A B …
 *
 * @param feeds  for each model under its own names
 * @param runs   of each model, at least 1; fewer are made when they take more than 20 s, and never fewer than one
 * @returns medians, and the runs of each model that were made
 */
export async function measureLatency(
  sessions: Pair<Session>,
  feeds: Pair<ReadonlyMap<string, FeedTensor>>,
  runs: number,
  { signal }: RunOptions = {},
): Promise<Pair<number> & { readonly runs: number }> {
  const times = { reference: [] as number[], candidate: [] as number[] }
  const begin = performance.now()
  const timed = async (which: keyof Pair<Session>) => {
    const start = performance.now()
    await sessions[which].run(feeds[which])
    return performance.now() - start
  }
  for (let run = -WARM_UP_RUNS; run < runs; run++) {
    checkAborted(signal)
    const isLate = performance.now() - begin > LATENCY_LIMIT
    if (isLate && times.reference.length > 0) break
    const reference = await timed('reference')
    const candidate = await timed('candidate')
    if (run < 0 && !isLate) continue
    times.reference.push(reference)
    times.candidate.push(candidate)
  }
  return {
    reference: median(times.reference),
    candidate: median(times.candidate),
    runs: times.reference.length,
  }
}

/** Loads of each model, when one takes less than {@link QUICK_LOAD}; slower models are loaded once. */
const LOADS = 5
const QUICK_LOAD = 500

/**
 * Load both models, in turns and repeatedly when that is quick, and keep the last session of each.
 * @returns the sessions and the median load times; the caller disposes the sessions
 * @throws QtoolError `model` when one cannot be loaded; nothing stays open then
 */
export async function openBoth(
  paths: Pair<string>,
  options: SessionOptions,
): Promise<{ readonly sessions: Pair<Session>; readonly loadMilliseconds: Pair<number> }> {
  const times = { reference: [] as number[], candidate: [] as number[] }
  let reference: Session | undefined
  let candidate: Session | undefined
  try {
    for (let load = 0; load < LOADS; load++) {
      await reference?.dispose()
      await candidate?.dispose()
      reference = candidate = undefined
      let start = performance.now()
      reference = await openSession(paths.reference, options)
      times.reference.push(performance.now() - start)
      start = performance.now()
      candidate = await openSession(paths.candidate, options)
      times.candidate.push(performance.now() - start)
      if (Math.max(times.reference[load]!, times.candidate[load]!) > QUICK_LOAD) break
    }
  } catch (error) {
    await reference?.dispose()
    throw error
  }
  return {
    sessions: { reference: reference!, candidate: candidate! },
    loadMilliseconds: { reference: median(times.reference), candidate: median(times.candidate) },
  }
}
