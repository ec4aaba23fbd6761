/**
 * @file Memory that a model takes to load and run, measured in a process of its own: in this one other models and what they
 * left behind would count.
 */
import { fork } from 'node:child_process'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { checkAborted, type RunOptions } from '../progress.ts'
import type { ModelMemory } from '../report.ts'

/** What the process is told. */
export interface MemoryQuestion {
  readonly path: string
  /** One batch. */
  readonly feeds: ReadonlyMap<string, FeedTensor>
  readonly threads: number
}

/** What it says, once. */
export type MemoryAnswer = ModelMemory | { readonly failure: string }

/**
 * Load a model in a new process, run it once, and see what that took.
 * @throws QtoolError `model` when the process does not come back with an answer; `interrupted`.
 */
export async function measureMemory(question: MemoryQuestion, { signal }: RunOptions = {}): Promise<ModelMemory> {
  checkAborted(signal)
  const isSource = import.meta.url.endsWith('.ts')
  const child = fork(new URL(isSource ? './memoryProcess.ts' : './memoryProcess.js', import.meta.url), {
    serialization: 'advanced',
    // Run from source, Node needs a loader: a development dependency.
    execArgv: isSource ? ['--import', import.meta.resolve('tsx')] : [],
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  const stop = () => child.kill('SIGKILL')
  signal?.addEventListener('abort', stop, { once: true })
  try {
    const answer = await new Promise<MemoryAnswer>((resolve) => {
      child.on('message', (message) => resolve(message as MemoryAnswer))
      child.on('error', ({ message }) => resolve({ failure: message }))
      child.on('exit', (code, cause) => resolve({ failure: `the process ended with ${cause ?? `code ${code}`}` }))
      child.send(question, (error) => error && resolve({ failure: error.message }))
    })
    checkAborted(signal)
    if (!('failure' in answer)) return answer
    throw new QtoolError('model', `memory of ${question.path} cannot be measured: ${answer.failure}`)
  } finally {
    signal?.removeEventListener('abort', stop)
    stop()
  }
}
