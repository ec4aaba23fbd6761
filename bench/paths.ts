/** @file Where the benchmarks find things, and the polite way to stop when one of them is missing. */
import { existsSync } from 'node:fs'
import { join, relative } from 'node:path'

export const ROOT = join(import.meta.dirname, '..')
/** Everything the benchmarks write, except RESULTS.md; ignored by git. */
export const OUT = join(ROOT, 'bench', 'out')
/** Real models and data beside the project; see its README. Not part of the repository. */
export const SHARED_MODELS = join(ROOT, '..', 'shared', 'models')
export const RESULTS = join(ROOT, 'bench', 'RESULTS.md')
const CLI = join(ROOT, 'dist', 'bin', 'qtool.js')

/** A benchmark that cannot run here: the message says what is missing and how to get it. */
class Missing extends Error {}

/** @throws Missing when nothing is at `path`. */
export function requirePath(path: string, how: string): string {
  if (!existsSync(path)) throw new Missing(`${relative(process.cwd(), path) || path} is not here; ${how}`)
  return path
}

/** Path of the built command line tool. @throws Missing before `npm run build`. */
export function requireCli(): string {
  return requirePath(CLI, 'run `npm run build` first')
}

/** @throws Missing without the folder of real models. */
export function requireSharedModels(): string {
  return requirePath(SHARED_MODELS, 'the benchmarks on real models need it; all others run without')
}

/** Run a benchmark's main function; a {@link Missing} ends it with one line and exit code 0, for nothing is broken. */
export async function runBenchmark(main: () => Promise<void>): Promise<void> {
  try {
    await main()
  } catch (error) {
    if (!(error instanceof Missing)) throw error
    console.error(`skipped: ${error.message}`)
  }
}
