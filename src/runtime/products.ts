/**
 * @file Dense matrix products by onnxruntime: one tiny Gemm model for each combination of element type and flags, fed
 * from typed arrays without a copy. Products too small to be worth the call are plain loops.
 *
 * The bits of a result do not depend on the number of threads. The runtime itself does not promise that: it splits the
 * wider of C's two axes over its threads, and when a part is narrow, or one row high, sums the inner axis in another
 * order. So no more threads are used than leave every part large ({@link threadsFor}); with any number of them the
 * sums are then those of one thread.
 */
import * as ort from 'onnxruntime-node'
import { DataType, encodeModel, makeModel, makeNode, makeOpset, makeValueInfo } from '../onnx/proto.ts'

/** The arrays of one product, and its result, are all of the same kind. */
export type Floats = Float32Array | Float64Array

/** C = add + alpha · op(A) · op(B), all row-major. */
export interface Product<F extends Floats> {
  /** A as stored, before transposition: [aRows, aCols]. */
  readonly a: F
  readonly aRows: number
  readonly aCols: number
  /** B as stored, before transposition: [bRows, bCols]. */
  readonly b: F
  readonly bRows: number
  readonly bCols: number
  readonly transA?: boolean
  readonly transB?: boolean
  /** Added to the product; of its shape. */
  readonly add?: F
  /** Factor on op(A)·op(B); 1 when absent. */
  readonly alpha?: 1 | -1
  /** Where the result goes; a new array when absent. May be `add` itself, and must not overlap A or B. */
  readonly out?: F
}

export interface Products {
  /**
   * Multiply. Blocks the event loop while the runtime computes; products that are not awaited run one after another.
   *
   * Arrays over shared memory are copied in and out, since the runtime's binding takes none: keep large operands in
   * ordinary memory where speed matters.
   * @returns the result: `out` when given.
   * @throws RangeError when shapes, kinds or places of the arrays do not fit together, or after {@link dispose}.
   */
  multiply<F extends Floats>(product: Product<F>): Promise<F>
  /** Free the sessions, after the products under way. Disposing again does nothing. */
  dispose(): Promise<void>
}

/** Products with fewer multiplications are loops: a call costs some 20 µs, a multiplication in a loop 2 to 3 ns. */
const SMALL = 8192

/** The runtime's own log goes to stderr; what matters is thrown as well. */
const FATAL_ONLY = 4

/**
 * Open dense products; sessions are made as they are needed.
 * @param threads most threads that a product may use, at least 1.
 * @throws RangeError when `threads` is not a positive integer.
 */
export function openProducts(threads: number): Products {
  if (!Number.isInteger(threads) || threads < 1) throw new RangeError(`products: ${threads} threads`)
  const sessions = new Map<string, Promise<ort.InferenceSession>>()
  const scratch = makeScratch()
  let isOpen = true
  let last: Promise<unknown> = Promise.resolve()

  const sessionFor = (product: Product<Floats>, shape: Shape): Promise<ort.InferenceSession> => {
    const count = threadsFor(shape, threads)
    const isDouble = product.a instanceof Float64Array
    const flags = [isDouble, product.transA, product.transB, product.add !== undefined, product.alpha === -1]
    const key = [count, ...flags.map(Boolean)].join()
    const session = sessions.get(key) ?? openGemm(product, count)
    sessions.set(key, session)
    return session
  }

  const run = async (product: Product<Floats>, shape: Shape, out: Floats): Promise<void> => {
    const { a, aRows, aCols, b, bRows, bCols, add } = product
    const type = a instanceof Float64Array ? 'float64' : 'float32'
    const tensor = (data: Floats, rows: number, cols: number) =>
      new ort.Tensor(type, data as ort.Tensor.DataType, [rows, cols]) as ort.Tensor
    const session = await sessionFor(product, shape)
    const place = isShared(out) ? scratch('out', out) : out
    const feeds: Record<string, ort.Tensor> = {
      a: tensor(unshared('a', a, scratch), aRows, aCols),
      b: tensor(unshared('b', b, scratch), bRows, bCols),
    }
    // The runtime first copies the addend to the result, so one array may be both.
    const inPlace = add !== undefined && samePlace(add, out)
    if (inPlace && place !== out) place.set(out)
    if (add) feeds.add = tensor(inPlace ? place : unshared('add', add, scratch), shape.rows, shape.cols)
    await session.run(feeds, { out: tensor(place, shape.rows, shape.cols) })
    if (place !== out) out.set(place)
  }

  return {
    multiply: async (product) => {
      if (!isOpen) throw new RangeError('products: already disposed')
      const shape = checkedShape(product)
      const out = product.out ?? newLike(product.a, shape.rows * shape.cols)
      if (shape.rows * shape.cols * shape.inner < SMALL) {
        multiplySmall(product, shape, out)
        return out
      }
      const done = last.then(() => run(product, shape, out))
      last = done.catch(() => {})
      await done
      return out
    },
    dispose: async () => {
      isOpen = false
      await last
      const open = [...sessions.values()]
      sessions.clear()
      for (const session of open) await (await session).release()
    },
  }
}

/** C is [rows, cols], summed over `inner`. */
interface Shape {
  readonly rows: number
  readonly cols: number
  readonly inner: number
}

/** Least part of C per thread: columns when C is wider than high, rows otherwise. */
const LEAST_COLS = 128
const LEAST_ROWS = 16

/**
 * Threads that leave the order of the sums as it is with one thread. Of those fewer than asked only powers of two, so
 * that there are few sessions.
 */
function threadsFor({ rows, cols }: Shape, threads: number): number {
  // Products with a vector have kernels of their own, whose sums depend on the part.
  if (rows === 1 || cols === 1) return 1
  const most = Math.floor(cols > rows ? cols / LEAST_COLS : rows / LEAST_ROWS)
  if (most >= threads) return threads
  return most < 2 ? 1 : 2 ** Math.floor(Math.log2(most))
}

function checkedShape(product: Product<Floats>): Shape {
  const { a, aRows, aCols, b, bRows, bCols, transA, transB, add, out } = product
  const [rows, inner] = transA ? [aCols, aRows] : [aRows, aCols]
  const [innerB, cols] = transB ? [bCols, bRows] : [bRows, bCols]
  if (inner !== innerB) {
    throw new RangeError(`products: op(A) is [${rows}, ${inner}] and op(B) [${innerB}, ${cols}]`)
  }
  checkArray('A', a, aRows, aCols)
  checkArray('B', b, bRows, bCols)
  if (add) checkArray('add', add, rows, cols)
  if (out) checkArray('out', out, rows, cols)
  const isDouble = a instanceof Float64Array
  if ([b, add, out].some((other) => other && other instanceof Float64Array !== isDouble)) {
    throw new RangeError('products: arrays of float32 and float64 in one product')
  }
  if (out && (overlap(out, a) || overlap(out, b) || (add && !samePlace(add, out) && overlap(out, add)))) {
    throw new RangeError('products: the result would overwrite an operand')
  }
  return { rows, cols, inner }
}

function checkArray(name: string, array: Floats, rows: number, cols: number): void {
  const areSizes = Number.isInteger(rows) && Number.isInteger(cols) && rows >= 0 && cols >= 0
  if (!areSizes || array.length !== rows * cols) {
    throw new RangeError(`products: ${name} has ${array.length} numbers, not ${rows} × ${cols}`)
  }
}

/** Both have the same length. */
function samePlace(x: Floats, y: Floats): boolean {
  return x.buffer === y.buffer && x.byteOffset === y.byteOffset
}

function overlap(x: Floats, y: Floats): boolean {
  if (x.buffer !== y.buffer) return false
  return x.byteOffset < y.byteOffset + y.byteLength && y.byteOffset < x.byteOffset + x.byteLength
}

function newLike<F extends Floats>(like: F, length: number): F {
  return (like instanceof Float64Array ? new Float64Array(length) : new Float32Array(length)) as F
}

function isShared(array: Floats): boolean {
  return array.buffer instanceof SharedArrayBuffer
}

type Scratch = (role: string, like: Floats) => Floats

/** Ordinary memory to copy shared arrays to: one buffer for each role, which grows as needed. */
function makeScratch(): Scratch {
  const buffers = new Map<string, ArrayBuffer>()
  return (role, like) => {
    let buffer = buffers.get(role)
    if (!buffer || buffer.byteLength < like.byteLength) {
      buffer = new ArrayBuffer(like.byteLength)
      buffers.set(role, buffer)
    }
    return like instanceof Float64Array
      ? new Float64Array(buffer, 0, like.length)
      : new Float32Array(buffer, 0, like.length)
  }
}

function unshared(role: string, array: Floats, scratch: Scratch): Floats {
  if (!isShared(array)) return array
  const copy = scratch(role, array)
  copy.set(array)
  return copy
}

/** The definition, summed in float64. `out` may be `add`. */
function multiplySmall(product: Product<Floats>, { rows, cols, inner }: Shape, out: Floats): void {
  const { a, b, aCols, bCols, transA, transB, add, alpha = 1 } = product
  const [aRow, aStep] = transA ? [1, aCols] : [aCols, 1]
  const [bCol, bStep] = transB ? [bCols, 1] : [1, bCols]
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      let sum = 0
      for (let k = 0, p = i * aRow, q = j * bCol; k < inner; k++, p += aStep, q += bStep) sum += a[p]! * b[q]!
      const at = i * cols + j
      out[at] = (add ? add[at]! : 0) + alpha * sum
    }
  }
}

function openGemm(product: Product<Floats>, threads: number): Promise<ort.InferenceSession> {
  const type = product.a instanceof Float64Array ? DataType.DOUBLE : DataType.FLOAT
  const inputs = product.add ? ['a', 'b', 'add'] : ['a', 'b']
  const attributes = {
    transA: Number(product.transA ?? false),
    transB: Number(product.transB ?? false),
    alpha: { float: product.alpha ?? 1 },
  }
  const model = makeModel({
    irVersion: 8n,
    opsetImport: [makeOpset('', 13)],
    graph: {
      name: 'product',
      node: [makeNode('Gemm', inputs, ['out'], { attributes })],
      input: inputs.map((name) => makeValueInfo(name, type)),
      output: [makeValueInfo('out', type)],
    },
  })
  return ort.InferenceSession.create(encodeModel(model), {
    executionProviders: ['cpu'],
    logSeverityLevel: FATAL_ONLY,
    intraOpNumThreads: threads,
    // Nothing is allocated in a run, so there is no pattern to remember for each shape.
    enableMemPattern: false,
    // Waiting threads must not take the cores of our own workers.
    extra: { 'session.intra_op.allow_spinning': '0' },
  })
}
