/** @file How far the quantized network's outputs are from the float network's on the samples held out of calibration. */
import type { FeedTensor } from '../data/modelInput.ts'
import { OutputAccumulator } from '../eval/metrics.ts'
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
      output = new OutputAccumulator(name, outputKind(evidence))
      this.#outputs.set(name, output)
    }
    output.add({ reference: float, candidate: quantized, count, start: numbers[0] ?? 0, keep })
  }

  results(): CalibrationReport['outputs'] {
    return [...this.#outputs.values()].map((output) => {
      const { output: name, sqnr, kl } = output.result()
      return { output: name, sqnr, kl: kl?.mean }
    })
  }
}
