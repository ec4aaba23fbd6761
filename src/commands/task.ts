/** @file What the main thread and the worker that runs the pipeline say to each other. */
import type { AnalyzeConfig, EvalConfig, QuantizeConfig } from '../config.ts'
import type { ErrorCode } from '../errors.ts'
import type { ProgressEvent } from '../progress.ts'
import type { AnalyzeReport, EvalReport, QuantizeReport } from '../report.ts'

/** One operation with its arguments. */
export type Task =
  /** `model` is undefined where parts of a measurement are joined. */
  | { readonly operation: 'analyze'; readonly model: string | undefined; readonly config: AnalyzeConfig }
  | {
      readonly operation: 'quantize'
      readonly model: string
      readonly output: string | undefined
      readonly config: QuantizeConfig
    }
  | {
      readonly operation: 'eval'
      readonly reference: string
      readonly candidate: string
      readonly config: EvalConfig
    }

export interface ReportOf {
  readonly analyze: AnalyzeReport
  readonly quantize: QuantizeReport
  readonly eval: EvalReport
}

/** What the worker is started with. */
export interface WorkerStart {
  readonly task: Task
  /** One int32: 0, or 1 once the user wants to stop. Shared, because a blocked event loop receives no message. */
  readonly stop: SharedArrayBuffer
}

export type WorkerMessage =
  | { readonly kind: 'progress'; readonly event: ProgressEvent }
  | { readonly kind: 'done'; readonly report: ReportOf[keyof ReportOf] }
  /** `code` is absent for errors that are not meant for the user. */
  | {
      readonly kind: 'failed'
      readonly code: ErrorCode | undefined
      readonly message: string
      readonly hint: string | undefined
      readonly stack: string | undefined
    }
