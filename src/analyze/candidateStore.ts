/** @file The solved candidates of all layers, in memory up to a limit and on disk beyond it. */
import { Activations } from '../calibration/activations.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import type { QuantizedWeight } from '../quant/quantizedWeight.ts'

/** A candidate's weight, and what its bias takes back. */
export interface Solved {
  readonly weight: QuantizedWeight
  /** Mean output error by row; undefined where there is no bias. */
  readonly correction: Float64Array | undefined
}

/** Codes take a byte each. */
const MEMORY_BYTES = 512 * 2 ** 20

export class CandidateStore {
  readonly #tensors: Activations
  readonly #facts = new Map<string, Omit<QuantizedWeight, 'codes' | 'scales' | 'zeroPoints'>>()

  /** @param scratch names the scratch directory, which is made when it is needed first. */
  constructor(scratch: () => string) {
    this.#tensors = new Activations(scratch, MEMORY_BYTES)
  }

  put(layer: number, option: number, { weight, correction }: Solved): void {
    const { codes, scales, zeroPoints, ...facts } = weight
    this.#facts.set(keyOf(layer, option), facts)
    const put = (name: string, type: FeedTensor['type'], data: FeedTensor['data']) =>
      this.#tensors.put('float', option, `${layer} ${name}`, { type, dims: [data.length], data })
    put('codes', 'uint8', codes)
    put('scales', 'float', scales)
    if (zeroPoints) put('zero points', 'uint8', zeroPoints)
    if (correction) put('correction', 'double', correction)
  }

  has(layer: number, option: number): boolean {
    return this.#facts.has(keyOf(layer, option))
  }

  /** Good until another option of the layer is asked for. @throws RangeError when it was never put. */
  get(layer: number, option: number): Solved {
    const facts = this.#facts.get(keyOf(layer, option))
    if (!facts) throw new RangeError(`no solution of option ${option} of layer ${layer}`)
    const read = (name: string) =>
      this.#tensors.has('float', option, `${layer} ${name}`)
        ? this.#tensors.get('float', option, `${layer} ${name}`).data
        : undefined
    const weight = {
      ...facts,
      codes: read('codes') as Uint8Array,
      scales: read('scales') as Float32Array,
      zeroPoints: read('zero points') as Uint8Array | undefined,
    }
    return { weight, correction: read('correction') as Float64Array | undefined }
  }

  close(): void {
    this.#tensors.close()
  }
}

function keyOf(layer: number, option: number): string {
  return `${layer} ${option}`
}
