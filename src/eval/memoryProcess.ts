/** @file The process that {@link measureMemory} starts: one question, one answer. */
import { openSession } from '../runtime/session.ts'
import type { MemoryAnswer, MemoryQuestion } from './memory.ts'

const KIBIBYTE = 1024

async function measure({ path, feeds, threads }: MemoryQuestion): Promise<MemoryAnswer> {
  const before = process.memoryUsage.rss()
  const session = await openSession(path, { threads })
  await session.run(feeds)
  const loaded = process.memoryUsage.rss() - before
  const peak = process.resourceUsage().maxRSS * KIBIBYTE - before
  return { loaded: Math.max(0, loaded), peak: Math.max(0, loaded, peak) }
}

process.once('message', (question: MemoryQuestion) => {
  measure(question)
    .catch((error: Error) => ({ failure: error.message }))
    // Where nobody waits for an answer any more, the process just ends.
    .then((answer) => process.send?.(answer, () => process.disconnect?.()))
})
