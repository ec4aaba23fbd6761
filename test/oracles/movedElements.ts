/**
 * @file Where every single element of a tensor goes, written from the ONNX operator definitions: one entry per element, no
 * views, no strides kept between steps. Shares no code with src/.
 */

/** A tensor whose elements are the positions that they had in the stored tensor. */
export interface Traced {
  readonly dims: readonly number[]
  /** Row-major over `dims`: flat index in the stored tensor. */
  readonly origin: readonly number[]
}

export function countOf(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1)
}

export function traceStored(dims: readonly number[]): Traced {
  return { dims, origin: Array.from({ length: countOf(dims) }, (_, i) => i) }
}

/** Row-major multi-index of a flat index. */
function indexOf(flat: number, dims: readonly number[]): number[] {
  const index: number[] = []
  for (const dim of [...dims].reverse()) {
    index.unshift(flat % dim)
    flat = Math.floor(flat / dim)
  }
  return index
}

function flatOf(index: readonly number[], dims: readonly number[]): number {
  return index.reduce((flat, i, axis) => flat * dims[axis]! + i, 0)
}

/** ONNX Transpose: output axis i is input axis perm[i]. */
export function traceTranspose({ dims, origin }: Traced, perm: readonly number[]): Traced {
  const to = perm.map((axis) => dims[axis]!)
  const moved = Array.from({ length: origin.length }, (_, flat) => {
    const out = indexOf(flat, to)
    const from = dims.map((_, axis) => out[perm.indexOf(axis)]!)
    return origin[flatOf(from, dims)]!
  })
  return { dims: to, origin: moved }
}

/** Reshape, Squeeze, Unsqueeze, Flatten: the flat order stays. */
export function traceReshape({ origin }: Traced, to: readonly number[]): Traced {
  if (countOf(to) !== origin.length) throw new Error(`${origin.length} elements do not fit [${to}]`)
  return { dims: to, origin }
}

/** Stored position of each element of row r: rows are the axes outside [from, to), in order; columns those inside. */
export function tracedRows({ dims, origin }: Traced, from: number, to: number): number[][] {
  const outside = dims.filter((_, axis) => axis < from || axis >= to)
  const inside = dims.slice(from, to)
  return Array.from({ length: countOf(outside) }, (_, r) => {
    const row = indexOf(r, outside)
    return Array.from({ length: countOf(inside) }, (_, k) => {
      const full = [...row.slice(0, from), ...indexOf(k, inside), ...row.slice(from)]
      return origin[flatOf(full, dims)]!
    })
  })
}
