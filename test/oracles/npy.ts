/** @file The slow obvious .npy writer: any element type, byte order, axis order and version, one DataView call per element. */

export interface NpyOptions {
  readonly version?: 1 | 2 | 3
  readonly bigEndian?: boolean
  readonly fortranOrder?: boolean
}

const SETTERS: Record<string, (view: DataView, at: number, value: number | bigint, little: boolean) => void> = {
  b1: (view, at, value) => view.setUint8(at, Number(value)),
  i1: (view, at, value) => view.setInt8(at, Number(value)),
  u1: (view, at, value) => view.setUint8(at, Number(value)),
  i2: (view, at, value, little) => view.setInt16(at, Number(value), little),
  u2: (view, at, value, little) => view.setUint16(at, Number(value), little),
  i4: (view, at, value, little) => view.setInt32(at, Number(value), little),
  u4: (view, at, value, little) => view.setUint32(at, Number(value), little),
  i8: (view, at, value, little) => view.setBigInt64(at, BigInt(value), little),
  u8: (view, at, value, little) => view.setBigUint64(at, BigInt(value), little),
  // float16 is given as its bits
  f2: (view, at, value, little) => view.setUint16(at, Number(value), little),
  f4: (view, at, value, little) => view.setFloat32(at, Number(value), little),
  f8: (view, at, value, little) => view.setFloat64(at, Number(value), little),
}

/** A .npy with this header text, padded with spaces, and this body. */
export function npyFile(dict: string, body: Uint8Array, version = 1): Buffer {
  const lengthBytes = version === 1 ? 2 : 4
  let text = dict
  while ((8 + lengthBytes + text.length + 1) % 64 !== 0) text += ' '
  const length = Buffer.alloc(lengthBytes)
  if (version === 1) length.writeUInt16LE(text.length + 1)
  else length.writeUInt32LE(text.length + 1)
  return Buffer.concat([Buffer.from([0x93, 78, 85, 77, 80, 89, version, 0]), length, Buffer.from(`${text}\n`), body])
}

/**
 * @param code    numpy's type code without byte order, for example 'f4'.
 * @param values  in C order.
 */
export function writeNpy(
  code: string,
  shape: readonly number[],
  values: readonly (number | bigint)[],
  options: NpyOptions = {},
): Buffer {
  const size = Number(code[1])
  const body = Buffer.alloc(values.length * size)
  const view = new DataView(body.buffer, body.byteOffset, body.length)
  values.forEach((value, i) => {
    // Index of each axis, by repeated division; then the place in the order that is asked for.
    const index: number[] = []
    let rest = i
    for (const dim of [...shape].reverse()) {
      index.unshift(rest % dim)
      rest = Math.floor(rest / dim)
    }
    let place = 0
    if (options.fortranOrder) for (let k = shape.length - 1; k >= 0; k--) place = place * shape[k]! + index[k]!
    else for (let k = 0; k < shape.length; k++) place = place * shape[k]! + index[k]!
    SETTERS[code]!(view, place * size, value, !options.bigEndian)
  })
  const order = size === 1 ? '|' : options.bigEndian ? '>' : '<'
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`
  const fortran = options.fortranOrder ? 'True' : 'False'
  return npyFile(
    `{'descr': '${order}${code}', 'fortran_order': ${fortran}, 'shape': ${tuple}, }`,
    body,
    options.version,
  )
}
