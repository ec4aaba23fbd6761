/** @file The result objects of the three operations. They become the `--json` documents, so changes bump `schemaVersion`. */
import type { CodebookName } from './codebook/codebookForms.ts'
import type { Coding } from './quant/codebookWeight.ts'
import type { Bits, GridScheme, StoredScaleType } from './quant/quantizedWeight.ts'
import type { FileSizes } from './reportEval.ts'
import type { AllocationReport, AnalysisReport } from './reportMixed.ts'

export type * from './reportEval.ts'
export type * from './reportMixed.ts'

/** Raised whenever a field changes its meaning or goes away; new fields do not raise it. */
export const SCHEMA_VERSION = 1

/** A weighted layer: one stored weight tensor and the node (or nodes) that read it. */
export interface LayerInfo {
  /** Name of the first node that uses the weight, or its output's name where the node has none. */
  readonly name: string
  /** Name of the weight tensor. */
  readonly weight: string
  /** ONNX operator types that read it, without repeats, for example ['Gather', 'MatMul'] for tied embeddings. */
  readonly operators: readonly string[]
  /** As stored in the model. */
  readonly shape: readonly number[]
  /** ONNX element type, lower case: float, float16, bfloat16, double. */
  readonly elementType: string
  readonly weights: number
  readonly bytes: number
  /** Multiply-accumulates of one inference, where shapes are known. `perPosition` when only the last axis is known. */
  readonly macs: { readonly count: number; readonly perPosition: boolean } | undefined
}

/** A tensor or node with weights that stays as it is. */
export interface LeftAlone {
  readonly name: string
  readonly operator: string
  readonly weight: string
  readonly bytes: number
  /** A sentence for the user. */
  readonly reason: string
}

export interface WidthFigures {
  readonly bits: Bits
  /** Bytes of codes, scales and zero points as qtool would store them. */
  readonly storedBytes: number
  /** ‖W − Ŵ‖² / ‖W‖² of round-to-nearest (the better of symmetric and asymmetric min-max). */
  readonly relativeError: number
}

export interface AnalyzeReport {
  readonly schemaVersion: number
  readonly kind: 'analyze'
  readonly qtoolVersion: string
  /** Undefined when parts of a measurement were joined, which takes no model; then there are no layers below, either. */
  readonly model:
    | (FileSizes & { readonly irVersion: number; readonly opsets: Readonly<Record<string, number>> })
    | undefined
  readonly groupSize: number | 'channel'
  readonly layers: readonly (LayerInfo & { readonly shareOfBytes: number; readonly widths: readonly WidthFigures[] })[]
  readonly leftAlone: readonly LeftAlone[]
  readonly totals: {
    readonly weights: number
    readonly weightBytes: number
    readonly leftAloneBytes: number
    readonly otherBytes: number
    /** Sums over all layers; relativeError is Σ‖W − Ŵ‖² / Σ‖W‖². */
    readonly widths: readonly WidthFigures[]
  }
  /** Undefined when nothing was measured on data. */
  readonly analysis: AnalysisReport | undefined
  readonly warnings: readonly string[]
}

/** What calibration made of a layer. Errors are squared and relative to the squared outputs of the float model. */
export interface LayerCalibration {
  /** What won: codes that the solver chose, or plain rounding. */
  readonly solver: 'gptq' | 'round-to-nearest'
  /** The order in which the solver went through the columns, 'by row' where each row has its best; undefined for plain rounding. */
  readonly order: 'natural' | 'activation' | 'greedy' | 'by row' | undefined
  /** Share of the drift between float and quantized inputs that the target follows, 0 … 1. */
  readonly alpha: number
  readonly biasCorrected: boolean
  /** Error on held-out samples at the end of the block, of what was kept; undefined when none were held out. */
  readonly heldOutError: number | undefined
  /** The same with plain round-to-nearest in this layer. */
  readonly heldOutErrorOfRounding: number | undefined
  /** Damping, relative to the mean diagonal, that made the Hessian positive definite. */
  readonly damping: number
  /** Columns whose input is always zero. */
  readonly deadInputs: number
  /** Candidates that lost, with their held-out error. */
  readonly rejected: readonly { readonly name: string; readonly heldOutError: number }[]
  /**
   * Where a grid could take the place of tables: loss of the model's outputs on calibration samples with each in this layer alone;
   * `isClear` where that decided, and not the held-out error that other candidates are judged by. Held-out errors of the
   * layer's own outputs where there was no network to run.
   */
  readonly forms?: { readonly tables: number; readonly grid: number; readonly isClear: boolean } | undefined
}

/** What the calibration of a model was done with, and what it came to. */
export interface CalibrationReport {
  /** Files of data or statistics. */
  readonly source: string
  /** Samples that were used, the held-out ones included. */
  readonly samples: number
  readonly heldOut: number
  /** Positions (tokens, pixels) that carried weight. */
  readonly positions: number
  /** Groups of layers that read the same tensor. */
  readonly groups: number
  /** Parts of the graph that ran one after another. */
  readonly stages: number
  /** The model's outputs on held-out samples, quantized against float: SQNR in dB, mean KL in nats for logits. */
  readonly outputs: readonly { readonly output: string; readonly sqnr: number; readonly kl: number | undefined }[]
  /** Sentences for the user. */
  readonly notes: readonly string[]
}

/** What method rsq tried before calibration, and what it kept. */
export interface RsqReport {
  /** In their order, each on top of those kept before it. The first is the model as it is, where anything was compared. */
  readonly trials: readonly {
    readonly name: string
    /** Largest relative difference of a rotated model's outputs from the original's; undefined for what is not a rotation. */
    readonly difference: number | undefined
    /** Mean loss of held-out samples with one width for all layers; undefined where nothing was compared. */
    readonly loss: number | undefined
    /** Loss over that of what was kept before, less 1, and its standard error. */
    readonly change: number | undefined
    readonly standardError: number | undefined
    readonly kept: boolean
  }[]
  /** Strategy by which tokens were weighed; undefined where all count the same. */
  readonly importance: string | undefined
  /** What looks as if it could be rotated and was not, with the reason. */
  readonly refused: readonly string[]
  /** Sentences for the user. */
  readonly notes: readonly string[]
}

/** How a quantized weight lies in the written file; see docs/FORMATS.md. */
export type RepresentationName = 'MatMulNBits' | 'GatherBlockQuantized' | 'gather-rows' | 'folded' | 'DequantizeLinear'

/** Levels are on a grid. */
interface OnGrid {
  readonly scheme: GridScheme
  /** How scales were found: min-max, error-minimising clip (p = 2.4), or HQQ zero points. */
  readonly method: 'minmax' | 'clip' | 'hqq'
  readonly codebook?: undefined
}

/** Levels come from tables. */
interface FromTables {
  readonly scheme?: undefined
  readonly method: 'codebook'
  readonly codebook: {
    readonly name: CodebookName
    readonly coding: Coding
    /** Different tables. */
    readonly tables: number
    /** The table is a fixed one, of which the file has one copy. */
    readonly shared: boolean
    /** The file stores which table each row has; false where all have one, or those of a table follow each other. */
    readonly permuted: boolean
  }
}

export type QuantizedLayer = LayerFigures & (OnGrid | FromTables)

interface LayerFigures extends LayerInfo {
  /** Width of a code, or of an index per weight. */
  readonly bits: Bits
  /** Input columns that share a scale. */
  readonly groupSize: number
  /** uint8 and int8: multiples of one step for the layer. */
  readonly scaleType: StoredScaleType
  /** One per use of the weight, without repeats. */
  readonly representations: readonly RepresentationName[]
  /** Codes, scales, zero points, tables and padding, but not a table that all layers share; as written, so unpacked with `expand`. */
  readonly storedBytes: number
  readonly bitsPerWeight: number
  readonly relativeError: number
  /** Why bits or representation differ from what was asked, if they do. */
  readonly notes: readonly string[]
  /** Undefined without calibration, and for layers that it did not reach. */
  readonly calibration: LayerCalibration | undefined
}

export interface VerifiedLayer {
  readonly name: string
  readonly representation: RepresentationName
  /** Largest |runtime − ours| over the compared values, relative to the largest |ours|. */
  readonly largestDifference: number
  readonly tolerance: number
}

export interface QuantizeReport {
  readonly schemaVersion: number
  readonly kind: 'quantize'
  readonly qtoolVersion: string
  readonly dryRun: boolean
  readonly source: FileSizes & { readonly sha256: readonly { readonly path: string; readonly sha256: string }[] }
  readonly output: FileSizes
  readonly budget: string | undefined
  readonly format: 'auto' | 'contrib' | 'standard'
  readonly opset: { readonly from: number; readonly to: number }
  readonly layers: readonly QuantizedLayer[]
  readonly leftAlone: readonly LeftAlone[]
  readonly totals: {
    /** Weights that were quantized. */
    readonly weights: number
    /** Mean width of codes and indices over the quantized layers, in bits. */
    readonly meanBits: number
    /** Stored bits per weight over the quantized layers: codes, scales, zero points, all tables, padding; as written. */
    readonly bitsPerWeight: number
    readonly relativeError: number
    /** Output bytes over source bytes. */
    readonly ratio: number
  }
  readonly loading: {
    /**
     * Bytes that onnxruntime holds on the way from the compact form to what it runs, on top of both: an upper bound from
     * shapes. With `expand`, of the compact form that was not written.
     */
    readonly transientBytes: number
    /** Bytes of all files of the compact form where the output is unpacked; undefined where it is the compact form. */
    readonly compactBytes: number | undefined
  }
  /** Undefined when all layers are alike, but for those set by hand, or as a plan says. */
  readonly allocation: AllocationReport | undefined
  /** Undefined when the model was quantized from its weights alone. */
  readonly calibration: CalibrationReport | undefined
  /** Undefined with other methods. */
  readonly rsq: RsqReport | undefined
  readonly verified: readonly VerifiedLayer[] | undefined
  readonly seconds: number
  readonly warnings: readonly string[]
}
