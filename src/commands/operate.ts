/** @file What every command does with its task: run it, show progress, print warnings and the result. */
import type { CommonFlags } from './flags.ts'
import { startProgressDisplay } from './progressDisplay.ts'
import { runPipeline } from './runPipeline.ts'
import type { ReportOf, Task } from './task.ts'
import { writeJson, writeNotice, writeResult } from './terminal.ts'

/** One invocation of the command line. */
export interface Invocation {
  /** The module that runs tasks. */
  readonly worker: URL
  /** Set by the command that ran. */
  exitCode: number
}

/**
 * Run a task to its end and print its report: one JSON document or text on stdout, warnings on stderr.
 * @param toText loads the module that makes the text; only called when text is wanted.
 * @throws QtoolError as the pipeline does.
 */
export async function operate<T extends Task>(
  task: T,
  flags: CommonFlags,
  invocation: Invocation,
  toText: () => Promise<(report: ReportOf[T['operation']]) => string>,
): Promise<ReportOf[T['operation']]> {
  const display = await startProgressDisplay(flags.quiet)
  let report: ReportOf[T['operation']]
  try {
    report = await runPipeline(task, {
      onProgress: display.show,
      onStopping: display.stopping,
      worker: invocation.worker,
    })
  } finally {
    display.end()
  }
  if (flags.json) writeJson(report)
  else writeResult((await toText())(report))
  if (!flags.quiet) for (const warning of report.warnings) writeNotice('warning', warning)
  return report
}
