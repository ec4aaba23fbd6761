/**
 * @file The library: the three operations of the command line as typed functions. Nothing here prints; progress goes to
 * `onProgress`, an `AbortSignal` stops the work between layers, and every expected failure is a QtoolError with a code.
 */
export type { AnalyzeConfig, DataConfig, EvalConfig, Normalize, QuantizeConfig, Thresholds } from './config.ts'
export { type ErrorCode, QtoolError } from './errors.ts'
export { analyzeModel, evaluateModels, quantizeModel } from './pipeline.ts'
export type { ProgressEvent, ProgressListener, RunOptions } from './progress.ts'
export type * from './report.ts'
