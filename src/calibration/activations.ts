/**
 * @file The tensors that are alive between two stages, for every batch of the calibration data: in memory up to a
 * limit, beyond it in a scratch directory.
 */
import fs from 'node:fs'
import path from 'node:path'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'

/** Tensors up to this many bytes in all stay in memory, if nothing else is said. */
const MEMORY_BYTES = 96 * 2 ** 20

/** Values of the float network, and of the one whose layers are quantized so far. */
export type Path = 'float' | 'quantized'

interface Kept {
  readonly tensor: FeedTensor | undefined
  readonly file: string | undefined
  readonly type: FeedTensor['type']
  readonly dims: readonly number[]
  readonly elements: number
  readonly bytes: number
}

const ARRAYS = {
  float: Float32Array,
  double: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
} as const

export class Activations {
  readonly #kept = new Map<string, Kept>()
  readonly #scratch: () => string
  readonly #memoryLimit: number
  #memoryBytes = 0
  #files = 0
  /** Memory that tensors on disk are read to, by side and name. */
  readonly #read = new Map<string, FeedTensor['data']>()
  /** Files of dropped tensors. Writing over one is ten times as fast as a new one: its pages are there. */
  readonly #free: string[] = []
  #folder: string | undefined

  /**
   * @param scratch names the scratch directory, which is made when it is needed first.
   * @param memoryLimit bytes of tensors that stay in memory.
   */
  constructor(scratch: () => string, memoryLimit = MEMORY_BYTES) {
    this.#scratch = scratch
    this.#memoryLimit = memoryLimit
  }

  /** Keep a copy of a tensor under a name. */
  put(side: Path, batch: number, name: string, tensor: FeedTensor): void {
    const key = keyOf(side, batch, name)
    this.#drop(key)
    const bytes = tensor.data.byteLength
    const { type, dims } = tensor
    const facts = { type, dims, elements: tensor.data.length, bytes }
    if (this.#memoryBytes + bytes <= this.#memoryLimit) {
      this.#memoryBytes += bytes
      this.#kept.set(key, { ...facts, tensor: { type, dims, data: tensor.data.slice() }, file: undefined })
      return
    }
    this.#kept.set(key, { ...facts, tensor: undefined, file: this.#write(tensor) })
  }

  has(side: Path, batch: number, name: string): boolean {
    return this.#kept.has(keyOf(side, batch, name))
  }

  /**
   * The tensor; not to be written to, and good until the same name is read for another batch: what comes from disk comes
   * to the same memory.
   * @throws RangeError when it was never put or was dropped.
   */
  get(side: Path, batch: number, name: string): FeedTensor {
    const kept = this.#kept.get(keyOf(side, batch, name))
    if (!kept) throw new RangeError(`no ${side} activations '${name}' for batch ${batch}`)
    if (kept.tensor) return kept.tensor
    const place = `${side} ${name}`
    const known = this.#read.get(place)
    const Numbers = ARRAYS[kept.type]
    const data = known instanceof Numbers && known.length === kept.elements ? known : new Numbers(kept.elements)
    this.#read.set(place, data)
    const into = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    const file = fs.openSync(kept.file!, 'r')
    try {
      for (let at = 0; at < into.length; ) {
        const read = fs.readSync(file, into, at, Math.min(into.length - at, 2 ** 30), at)
        if (read === 0) throw new QtoolError('output', `${kept.file}: the scratch file became shorter`)
        at += read
      }
    } finally {
      fs.closeSync(file)
    }
    return { type: kept.type, dims: kept.dims, data }
  }

  /** Type and shape without reading the numbers. */
  shapeOf(side: Path, batch: number, name: string): Pick<FeedTensor, 'type' | 'dims'> & { readonly bytes: number } {
    const kept = this.#kept.get(keyOf(side, batch, name))
    if (!kept) throw new RangeError(`no ${side} activations '${name}' for batch ${batch}`)
    return kept
  }

  /** Forget a name of a batch on both sides; its place, in memory or on disk, is for others. */
  drop(batch: number, name: string): void {
    this.#drop(keyOf('float', batch, name))
    this.#drop(keyOf('quantized', batch, name))
  }

  /** Forget a name in all batches. */
  end(name: string, batches: number): void {
    for (let batch = 0; batch < batches; batch++) this.drop(batch, name)
    for (const side of ['float', 'quantized']) this.#read.delete(`${side} ${name}`)
  }

  #drop(key: string): void {
    const kept = this.#kept.get(key)
    if (!kept) return
    this.#kept.delete(key)
    if (kept.file) this.#free.push(kept.file)
    else this.#memoryBytes -= kept.bytes
  }

  #write(tensor: FeedTensor): string {
    const { data } = tensor
    const folder = this.#folder ?? this.#scratch()
    try {
      if (!this.#folder) fs.mkdirSync(folder, { recursive: true })
      this.#folder = folder
      const name = this.#free.pop() ?? path.join(folder, String(this.#files++))
      writeOver(name, new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
      return name
    } catch (cause) {
      throw new QtoolError('output', `cannot write activations to ${folder}: ${(cause as Error).message}`, {
        hint: 'calibration keeps what does not fit in memory on disk; name a directory with room: --scratch DIR',
        cause,
      })
    }
  }

  /** Remove everything, the scratch directory too. */
  close(): void {
    this.#kept.clear()
    this.#read.clear()
    if (this.#folder) fs.rmSync(this.#folder, { recursive: true, force: true })
  }
}

/** Write a file, in place where there is one. */
function writeOver(name: string, bytes: Uint8Array): void {
  const file = fs.openSync(name, fs.constants.O_RDWR | fs.constants.O_CREAT)
  try {
    fs.ftruncateSync(file, bytes.length)
    for (let at = 0; at < bytes.length; ) {
      at += fs.writeSync(file, bytes, at, Math.min(bytes.length - at, 2 ** 30), at)
    }
  } finally {
    fs.closeSync(file)
  }
}

function keyOf(side: Path, batch: number, name: string): string {
  return `${side} ${batch} ${name}`
}
