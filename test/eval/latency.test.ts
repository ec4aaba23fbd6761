import { describe, expect, it } from 'vitest'
import { measureLatency, median, openBoth } from '../../src/eval/latency.ts'
import type { Session } from '../../src/runtime/session.ts'
import { npmModels } from '../helpers/npmModels.ts'

/** A session that takes `milliseconds` a run and writes its name into a log. */
function fake(name: string, milliseconds: number, log: string[]): Session {
  return {
    run: async () => {
      log.push(name)
      const end = performance.now() + milliseconds
      while (performance.now() < end);
      return new Map()
    },
  } as unknown as Session
}

describe('measureLatency', () => {
  const feeds = { reference: new Map(), candidate: new Map() }

  it('runs both in turns, warm-up included, and takes medians', async () => {
    const log: string[] = []
    const sessions = { reference: fake('A', 1, log), candidate: fake('B', 4, log) }
    const { reference, candidate, runs } = await measureLatency(sessions, feeds, 5)
    expect(runs).toBe(5)
    expect(log.join('')).toBe('AB'.repeat(7))
    expect(reference).toBeGreaterThanOrEqual(1)
    expect(candidate).toBeGreaterThanOrEqual(4)
    expect(candidate / reference).toBeGreaterThan(1.5)
  })

  it('stops when aborted', async () => {
    const abort = AbortSignal.abort()
    const log: string[] = []
    const sessions = { reference: fake('A', 0, log), candidate: fake('B', 0, log) }
    await expect(measureLatency(sessions, feeds, 5, { signal: abort })).rejects.toMatchObject({ code: 'interrupted' })
    expect(log).toEqual([])
  })
})

it('median is the middle, or the mean of the two in the middle', () => {
  expect(median([3, 1, 2])).toBe(2)
  expect(median([4, 1, 2, 10])).toBe(3)
  expect(median([])).toBeNaN()
})

it('openBoth times loading and returns sessions that run', async () => {
  const paths = { reference: npmModels.wakeWord, candidate: npmModels.wakeWordOld }
  const { sessions, loadMilliseconds } = await openBoth(paths, { threads: 1 })
  expect(loadMilliseconds.reference).toBeGreaterThan(0)
  expect(loadMilliseconds.candidate).toBeGreaterThan(0)
  expect(sessions.reference.inputs).toHaveLength(1)
  await sessions.reference.dispose()
  await sessions.candidate.dispose()
  await expect(openBoth({ ...paths, candidate: 'nowhere.onnx' }, {})).rejects.toMatchObject({ code: 'model' })
})
