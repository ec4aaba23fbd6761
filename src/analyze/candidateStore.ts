/** @file The solved candidates of all layers, in memory up to a limit and on disk beyond it. */
import { Activations } from '../calibration/activations.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import type { CodebookWeight } from '../quant/codebookWeight.ts'
import { type GridWeight, isCodebook, type QuantizedWeight } from '../quant/quantizedWeight.ts'

/** A candidate's weight, and what its bias takes back. */
export interface Solved {
  readonly weight: QuantizedWeight
  /** Mean output error by row; undefined where there is no bias. */
  readonly correction: Float64Array | undefined
}

/** What is said of a weight beside its arrays. */
type Facts =
  | Omit<GridWeight, 'codes' | 'scales' | 'zeroPoints'>
  | Omit<CodebookWeight, 'codes' | 'scales' | 'tables' | 'tableOf'>

/** Codes take a byte each. */
const MEMORY_BYTES = 512 * 2 ** 20

export class CandidateStore {
  readonly #tensors: Activations
  readonly #facts = new Map<string, Facts>()

  /**
   * @param scratch names the scratch directory, which is made when it is needed first.
   * @param memoryBytes that stay in memory.
   */
  constructor(scratch: () => string, memoryBytes = MEMORY_BYTES) {
    this.#tensors = new Activations(scratch, memoryBytes)
  }

  put(layer: number, option: number, { weight, correction }: Solved): void {
    const { codes, scales } = weight
    const put = (name: string, type: FeedTensor['type'], data: FeedTensor['data']) =>
      this.#tensors.put('float', option, `${layer} ${name}`, { type, dims: [data.length], data })
    put('codes', 'uint8', codes)
    put('scales', 'float', scales)
    if (isCodebook(weight)) {
      const { codes: _codes, scales: _scales, tables, tableOf, ...facts } = weight
      this.#facts.set(keyOf(layer, option), facts)
      put('tables', 'int8', tables)
      put('tables of rows', 'uint16', tableOf)
    } else {
      const { codes: _codes, scales: _scales, zeroPoints, ...facts } = weight
      this.#facts.set(keyOf(layer, option), facts)
      if (zeroPoints) put('zero points', 'uint8', zeroPoints)
    }
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
    const numbers = { codes: read('codes') as Uint8Array, scales: read('scales') as Float32Array }
    const weight: QuantizedWeight =
      'coding' in facts
        ? {
            ...facts,
            ...numbers,
            tables: read('tables') as Int8Array,
            tableOf: read('tables of rows') as Uint16Array,
          }
        : { ...facts, ...numbers, zeroPoints: read('zero points') as Uint8Array | undefined }
    return { weight, correction: read('correction') as Float64Array | undefined }
  }

  close(): void {
    this.#tensors.close()
  }
}

function keyOf(layer: number, option: number): string {
  return `${layer} ${option}`
}
