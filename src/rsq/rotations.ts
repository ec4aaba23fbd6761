/** @file Makers of rotations: randomised Hadamard matrices of any width, and given matrices. */
import { makeRandom } from '../random.ts'
import { haarRotation, reflectInPlace, vectorsOf } from './haar.ts'
import { isHadamardOrder, largestHadamardDivisor, multiplyByHadamardInPlace } from './hadamard.ts'
import type { Rotation } from './rotation.ts'

/** Blocks smaller than this spread too little; Haar's rotation takes their place. */
const SMALLEST_BLOCK = 32
/** Largest error of an entry of QᵀQ that a given matrix may have. */
const ORTHOGONAL_TO = 1e-9

export interface RandomRotation {
  /** An integer: equal seeds give equal rotations. */
  readonly seed: number
  /** Makes Q·1 = 1, so that the subtraction of the mean, as in LayerNorm, commutes with Q. */
  readonly keepsOnes?: boolean
}

/**
 * Q = diag(±1)·H/√width with random signs (QuaRot, Ashkboos et al. 2024). Where there is no H of this width: blocks of the
 * largest order from 32 on that divides it, and else Haar's distribution, which costs O(width²) a vector.
 *
 * With `keepsOnes` a mirror follows that takes a = Qᵀ·1/√width to 1/√width: Q ← Q·(I − 2·w·wᵀ/wᵀw), w = a − 1/√width.
 * @throws RangeError for a width that is no positive integer.
 */
export function randomHadamard(width: number, { seed, keepsOnes = false }: RandomRotation): Rotation {
  if (!Number.isInteger(width) || width < 1) throw new RangeError(`there is no rotation of width ${width}`)
  const random = makeRandom(seed)
  const order = isHadamardOrder(width) ? width : largestHadamardDivisor(width)
  const isEnough = order === width || order >= SMALLEST_BLOCK
  const rotation = isEnough
    ? signedHadamard(
        width,
        order,
        Float64Array.from({ length: width }, () => (random.uniform() < 0.5 ? -1 : 1)),
      )
    : haarRotation(width, random)
  return keepsOnes ? keepingOnes(rotation) : rotation
}

function signedHadamard(width: number, order: number, signs: Float64Array): Rotation {
  const scaled = signs.map((sign) => sign / Math.sqrt(order))
  const scale = (vectors: Float64Array) => {
    for (const vector of vectorsOf(vectors, width)) for (let i = 0; i < width; i++) vector[i]! *= scaled[i]!
  }
  return {
    width,
    applyInPlace: (vectors) => {
      scale(vectors)
      multiplyByHadamardInPlace(vectors, order)
    },
    invertInPlace: (vectors) => {
      multiplyByHadamardInPlace(vectors, order, true)
      scale(vectors)
    },
  }
}

function keepingOnes(rotation: Rotation): Rotation {
  const { width } = rotation
  const entry = 1 / Math.sqrt(width)
  const mirror = new Float64Array(width).fill(entry)
  rotation.applyInPlace(mirror)
  for (let i = 0; i < width; i++) mirror[i]! -= entry
  const reflect = (vectors: Float64Array) => {
    for (const vector of vectorsOf(vectors, width)) reflectInPlace(vector, mirror)
  }
  return {
    width,
    applyInPlace: (vectors) => {
      rotation.applyInPlace(vectors)
      reflect(vectors)
    },
    invertInPlace: (vectors) => {
      reflect(vectors)
      rotation.invertInPlace(vectors)
    },
  }
}

/**
 * The rotation by a given matrix.
 * @param q [width, width] row-major, orthogonal; shared, not copied.
 * @throws RangeError where it has another size, or QᵀQ is not I to 1e-9. O(width³).
 */
export function rotationOfMatrix(q: Float64Array, width: number): Rotation {
  if (q.length !== width * width) throw new RangeError(`${q.length} numbers are no matrix of ${width} × ${width}`)
  const transposed = transpose(q, width)
  const rotation: Rotation = {
    width,
    applyInPlace: (vectors) => multiplyInPlace(vectors, transposed, width),
    invertInPlace: (vectors) => multiplyInPlace(vectors, q, width),
  }
  const product = transposed.slice()
  rotation.applyInPlace(product)
  const isWrong = product.some((value, i) => !(Math.abs(value - (i % (width + 1) === 0 ? 1 : 0)) <= ORTHOGONAL_TO))
  if (isWrong) throw new RangeError('the matrix is not orthogonal')
  return rotation
}

function transpose(matrix: Float64Array, width: number): Float64Array {
  return matrix.map((_, at) => matrix[(at % width) * width + Math.floor(at / width)]!)
}

/** v ← v·Aᵀ. */
function multiplyInPlace(vectors: Float64Array, a: Float64Array, width: number): void {
  const product = new Float64Array(width)
  for (const vector of vectorsOf(vectors, width)) {
    for (let row = 0; row < width; row++) {
      let sum = 0
      for (let i = 0; i < width; i++) sum += vector[i]! * a[row * width + i]!
      product[row] = sum
    }
    vector.set(product)
  }
}

/** Q itself, [width, width] row-major. */
export function matrixOf({ width, applyInPlace }: Rotation): Float64Array {
  const q = new Float64Array(width * width)
  for (let i = 0; i < width; i++) q[i * (width + 1)] = 1
  applyInPlace(q)
  return q
}
