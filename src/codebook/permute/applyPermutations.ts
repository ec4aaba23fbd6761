/** @file Puts channels into another order in the stored tensors. Bytes are moved, nothing is computed. */

import { indexModel } from '../../onnx/graph.ts'
import { INLINE_LIMIT, type OnnxModel } from '../../onnx/model.ts'
import { DataLocation, type TensorProto } from '../../onnx/proto.ts'
import { elementBits, tensorByteLength, tensorBytes } from '../../onnx/tensorData.ts'
import { type ChannelSet, orderAlong } from './channelSet.ts'

interface Permutation {
  readonly set: ChannelSet
  /** [channels]: new channel i is the old channel order[i]. */
  readonly order: ArrayLike<number>
}

/**
 * Permute channels of a model, in place. Tensors that lie in files are read, and lie in memory afterwards.
 * @param model that the sets were found in, or a copy of it.
 * @throws RangeError when an order is no permutation, or the model has no such constants.
 * @throws QtoolError `model` when a data file cannot be read.
 */
export function applyPermutationsInPlace(model: OnnxModel, permutations: readonly Permutation[]): void {
  const { constants } = indexModel(model.proto).scopes[0]!
  for (const { set, order } of permutations) checkOrder(order, set.channels)
  for (const { set, order } of permutations) {
    for (const { constant, axis, ...place } of set.axes) {
      const tensor = constants.get(constant.name)?.tensor
      const width = Number(tensor?.dims[axis] ?? -1n)
      if (!tensor || width < 0)
        throw new RangeError(`the main graph has no constant '${constant.name}' with axis ${axis}`)
      permuteInPlace(model, tensor, axis, orderAlong(place, width, order))
    }
  }
}

function checkOrder(order: ArrayLike<number>, channels: number): void {
  const seen = new Set(Array.from(order))
  const isWhole = [...seen].every((c) => Number.isInteger(c) && c >= 0 && c < channels)
  if (order.length !== channels || seen.size !== channels || !isWhole) {
    throw new RangeError(`wanted an order of ${channels} channels, got ${order.length} numbers that are none`)
  }
}

/** Widest word that is moved as one: float64 numbers are moved as halves, so that no bit of a NaN changes. */
const WORD = 4

/** @param places [width]: new place p of the axis is the old place places[p]. */
function permuteInPlace(model: OnnxModel, tensor: TensorProto, axis: number, places: Uint32Array): void {
  const size = (elementBits(tensor.dataType) ?? 0) / 8
  if (!Number.isInteger(size) || size === 0) throw new RangeError(`elements of '${tensor.name}' are not whole bytes`)
  const source = tensorBytes(model, tensor)
  const length = tensorByteLength(tensor)
  if (source.length !== length) throw new RangeError(`'${tensor.name}' has ${source.length} bytes, not ${length}`)
  const word = Math.min(WORD, size)
  const run = (tensor.dims.slice(axis + 1).reduce((product, dim) => product * Number(dim), 1) * size) / word
  const from = wordsOf(source.byteOffset % word === 0 ? source : source.slice(), word)
  const bytes = new Uint8Array(length)
  const to = wordsOf(bytes, word)
  const slab = places.length * run
  for (let start = 0; start < to.length; start += slab) {
    for (let p = 0, at = start; p < places.length; p++, at += run) {
      const first = start + places[p]! * run
      for (let i = 0; i < run; i++) to[at + i] = from[first + i]!
    }
  }
  store(model, tensor, bytes)
}

function wordsOf({ buffer, byteOffset, byteLength }: Uint8Array, word: number) {
  if (word === 4) return new Uint32Array(buffer, byteOffset, byteLength / 4)
  if (word === 2) return new Uint16Array(buffer, byteOffset, byteLength / 2)
  return new Uint8Array(buffer, byteOffset, byteLength)
}

/** Give a tensor its raw bytes, in memory; whatever it held before is forgotten. */
function store(model: OnnxModel, tensor: TensorProto, bytes: Uint8Array<ArrayBuffer>): void {
  tensor.dataLocation = DataLocation.DEFAULT
  tensor.externalData = []
  tensor.floatData = []
  tensor.doubleData = []
  tensor.int32Data = []
  tensor.int64Data = []
  tensor.uint64Data = []
  tensor.rawData = bytes.length > INLINE_LIMIT ? new Uint8Array(0) : bytes
  if (bytes.length > INLINE_LIMIT) model.payloads.set(tensor, { kind: 'memory', byteLength: bytes.length, bytes })
  else model.payloads.delete(tensor)
}
