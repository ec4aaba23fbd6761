/** @file The process that {@link measureMemory} starts: one question, one answer. */
import { readFileSync } from 'node:fs'
import { openSession } from '../runtime/session.ts'
import type { MemoryAnswer, MemoryQuestion } from './memory.ts'

const KIBIBYTE = 1024

async function measure({ path, feeds, threads }: MemoryQuestion): Promise<MemoryAnswer> {
  const before = process.memoryUsage.rss()
  const session = await openSession(path, { threads })
  await session.run(feeds)
  const loaded = process.memoryUsage.rss() - before
  const peak = mostResident() - before
  return { loaded: Math.max(0, loaded), peak: Math.max(0, loaded, peak) }
}

/**
 * Bytes, the most so far. On Linux what getrusage says may be that of the parent before this process was started out of it;
 * the high-water mark of its own memory is in /proc.
 */
function mostResident(): number {
  const [, own] = process.platform === 'linux' ? (/VmHWM:\s+(\d+) kB/.exec(status()) ?? []) : []
  return (own === undefined ? process.resourceUsage().maxRSS : Number(own)) * KIBIBYTE
}

function status(): string {
  try {
    return readFileSync('/proc/self/status', 'utf8')
  } catch {
    return ''
  }
}

process.once('message', (question: MemoryQuestion) => {
  measure(question)
    .catch((error: Error) => ({ failure: error.message }))
    // Where nobody waits for an answer any more, the process just ends.
    .then((answer) => process.send?.(answer, () => process.disconnect?.()))
})
