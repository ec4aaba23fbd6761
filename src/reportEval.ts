/** @file The report of an evaluation, and its parts. */

/** Sizes of a model on disk, in bytes, all files. */
export interface FileSizes {
  readonly path: string
  readonly totalBytes: number
  readonly files: readonly { readonly path: string; readonly bytes: number }[]
}

/** Mean over samples with its standard error, and percentiles. */
export interface Distribution {
  readonly mean: number
  readonly standardError: number
  readonly median: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

export interface OutputComparison {
  readonly output: string
  readonly shape: readonly number[]
  /** Numbers compared. */
  readonly values: number
  /** KL(reference ‖ candidate) in nats per position; undefined when the output is not class or token logits. */
  readonly kl: Distribution | undefined
  /** Share of positions where both models have the same largest class; for integer outputs the share of equal values. */
  readonly top1Agreement: number | undefined
  /** Signal to quantization noise, 10·log10(Σ r² / Σ (r − c)²), dB. Infinity (null in JSON) when identical. */
  readonly sqnr: number
  readonly cosine: number
  readonly maxAbsoluteDifference: number
}

/** A figure of merit that needs labels or targets. */
export interface TaskMetric {
  readonly name: 'perplexity' | 'accuracy'
  readonly output: string
  readonly reference: number
  readonly candidate: number
  /** candidate − reference for accuracy; candidate / reference − 1 for perplexity. */
  readonly change: number
  /** Standard error of `change`, from paired samples. */
  readonly standardError: number
  readonly count: number
}

/** What the runtime made of one quantized node of the candidate. */
export interface NodeExecution {
  readonly node: string
  readonly operator: string
  readonly status:
    | 'low-bit kernel'
    | 'folded at load'
    | 'dequantized every run'
    | 'rows decoded at run time'
    | 'not executed'
}

export interface Threshold {
  readonly name: string
  readonly limit: number
  readonly measured: number
  readonly passed: boolean
}

/** Memory of a model in a process of its own, in bytes, on top of what the process has without it. */
export interface ModelMemory {
  /** Once it is loaded and has run one batch. */
  readonly loaded: number
  /** The most until then: what is unpacked while loading counts. */
  readonly peak: number
}

export interface EvalReport {
  readonly schemaVersion: number
  readonly kind: 'eval'
  readonly qtoolVersion: string
  readonly reference: FileSizes
  readonly candidate: FileSizes
  /** Where the inputs came from; `random` says how many were made. */
  readonly data: {
    readonly source: string
    readonly samples: number
    readonly random: boolean
    readonly filledInputs: readonly string[]
  }
  readonly outputs: readonly OutputComparison[]
  readonly metrics: readonly TaskMetric[]
  readonly loadMilliseconds: { readonly reference: number; readonly candidate: number }
  /** Median of interleaved runs on one batch. */
  readonly latencyMilliseconds: { readonly reference: number; readonly candidate: number; readonly runs: number }
  /** Undefined where no process could be started to measure it. */
  readonly memoryBytes: { readonly reference: ModelMemory; readonly candidate: ModelMemory } | undefined
  readonly execution: readonly NodeExecution[]
  /** Same comparison with MatMulNBits at accuracy level 0 and 4, when the two differ. */
  readonly accuracyLevels: readonly {
    readonly level: 0 | 4
    readonly outputs: readonly OutputComparison[]
    readonly metrics: readonly TaskMetric[]
  }[]
  readonly thresholds: readonly Threshold[]
  readonly passed: boolean
  readonly warnings: readonly string[]
}
