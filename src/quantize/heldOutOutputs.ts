/** @file How far the quantized network's outputs are from the float network's on the samples held out of calibration. */
import type { FeedTensor } from '../data/modelInput.ts'
import { OutputAccumulator, samplesOf } from '../eval/metrics.ts'
import { numbersOf } from '../eval/numbers.ts'
import { outputKind } from '../eval/outputKind.ts'
import type { CalibrationReport } from '../report.ts'

export interface ComparedBatch {
  readonly float: FeedTensor
  readonly quantized: FeedTensor
  readonly count: number
  /** Numbers of its samples in the data. */
  readonly numbers: Int32Array
  /** 0 for padding; one per token, or undefined when everything counts. */
  readonly weights: Float32Array | undefined
}

/** Collects the comparison batch by batch. */
export class HeldOutOutputs {
  readonly #outputs = new Map<string, OutputAccumulator>()
  readonly #losses = new Map<string, readonly number[]>()
  readonly #integers = new Set<string>()

  add(name: string, { float, quantized, count, numbers, weights }: ComparedBatch): void {
    const [batch = 1, sequence = 1] = float.dims
    const isByToken = weights !== undefined && float.dims.length > 2 && batch * sequence === weights.length
    const keep = isByToken ? Uint8Array.from(weights, (weight) => (weight > 0 ? 1 : 0)) : undefined
    let output = this.#outputs.get(name)
    if (!output) {
      const { type: elementType, dims } = float
      const values = numbersOf(float)
      const evidence = {
        name,
        elementType,
        dims,
        values,
        rows: keep && [...keep.keys()].filter((row) => keep[row]),
        largestLabel: undefined,
        logits: 'auto',
      } as const
      const kind = outputKind(evidence)
      if (kind === 'integers') this.#integers.add(name)
      output = new OutputAccumulator(name, kind)
      this.#outputs.set(name, output)
    }
    output.add({ reference: float, candidate: quantized, count, start: numbers[0] ?? 0, keep })
    const before = this.#losses.get(name) ?? []
    const own =
      output.sampleKls()?.slice(-samplesOf({ reference: float, count })) ??
      relativeErrors(float, quantized, count, keep)
    // An output without a batch axis says the same of all samples of the batch.
    const losses = own.length === count ? own : Array.from({ length: count }, () => own[0]!)
    this.#losses.set(name, [...before, ...losses])
  }

  /**
   * Loss of each sample, the mean over the outputs: KL in nats where they hold scores, the relative squared error elsewhere;
   * whole numbers count only where there is nothing else. Runs on the same samples can be compared pair by pair.
   */
  losses(): number[] {
    const floats = [...this.#losses].filter(([name]) => !this.#integers.has(name))
    const all = (floats.length > 0 ? floats : [...this.#losses]).map(([, losses]) => losses)
    return (all[0] ?? []).map((_, sample) => all.reduce((sum, own) => sum + own[sample]!, 0) / all.length)
  }

  results(): CalibrationReport['outputs'] {
    return [...this.#outputs.values()].map((output) => {
      const { output: name, sqnr, kl } = output.result()
      return { output: name, sqnr, kl: kl?.mean }
    })
  }
}

/** Σ(f − q)² / Σf² of each sample, over positions that count. */
function relativeErrors(
  float: FeedTensor,
  quantized: FeedTensor,
  count: number,
  keep: Uint8Array | undefined,
): number[] {
  const [reference, candidate] = [numbersOf(float), numbersOf(quantized)]
  const samples = samplesOf({ reference: float, count })
  const perSample = reference.length / samples
  const width = keep ? reference.length / keep.length : perSample
  return Array.from({ length: samples }, (_, sample) => {
    let error = 0
    let norm = 0
    for (let i = sample * perSample; i < (sample + 1) * perSample; i++) {
      if (keep?.[Math.floor(i / width)] === 0) continue
      // Equal infinities, as masks have them, are no difference.
      if (reference[i]! === candidate[i]!) {
        if (Number.isFinite(reference[i]!)) norm += reference[i]! ** 2
        continue
      }
      error += (reference[i]! - candidate[i]!) ** 2
      norm += reference[i]! ** 2
    }
    return norm > 0 ? error / norm : error
  })
}
