/** @file What the quantized weights of a model take in the file. */
import type { StoredTensor } from '../onnx/represent/stored.ts'

/** Bytes of the stored tensors of layers, with one copy of each table that they share. */
export function storedTotal(layers: readonly { readonly tensors: readonly StoredTensor[] }[]): number {
  const shared = new Map<string, number>()
  let total = 0
  for (const tensor of layers.flatMap(({ tensors }) => tensors)) {
    if (tensor.sharedAs === undefined) total += tensor.bytes
    // Tables have a byte for each level.
    else
      shared.set(
        tensor.sharedAs,
        tensor.dims.reduce((product, size) => product * size, 1),
      )
  }
  return [...shared.values()].reduce((sum, bytes) => sum + bytes, total)
}
