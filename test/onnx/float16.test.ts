import fc from 'fast-check'
import * as ort from 'onnxruntime-node'
import { beforeAll, describe, expect, test } from 'vitest'
import {
  bfloat16sToFloats,
  bfloat16ToFloat,
  floatsToBfloat16s,
  floatsToHalves,
  floatToBfloat16,
  floatToHalf,
  halfToFloat,
  halvesToFloats,
  roundToBfloat16,
  roundToHalf,
} from '../../src/onnx/float16.ts'
import { encodeModel, makeNode, model, value } from '../helpers/smallModels.ts'

const FLOAT16 = 10
const BFLOAT16 = 16

/** Cast x of one type through others, in onnxruntime. */
async function castSession(from: number, to: readonly number[]): Promise<ort.InferenceSession> {
  const node = to.map((type, i) =>
    makeNode('Cast', [i === 0 ? 'x' : `h${i}`], [i === to.length - 1 ? 'y' : `h${i + 1}`], {
      attributes: { to: type },
    }),
  )
  const signature = (name: string, type: number) => value(name, [0x10000], type)
  const proto = model({ node, input: [signature('x', from)], output: [signature('y', to.at(-1)!)] })
  return ort.InferenceSession.create(encodeModel(proto), { graphOptimizationLevel: 'disabled' })
}

const allBits = Uint16Array.from({ length: 0x10000 }, (_, i) => i)
const bitsOf = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length)

/** Floats of every exponent, and the ties between neighbouring halves and bfloats. */
function hardFloats(): Float32Array {
  const values = new Float32Array(0x10000)
  const bits = bitsOf(values)
  for (let i = 0; i < values.length; i++) {
    const top = (i * 0x9e37) & 0xffff
    const low = [0x8000, 0x7fff, 0x8001, 0x1000, 0x0fff, 0x1001, 0x3000, 0xf000][i % 8]!
    bits[i] = ((top << 16) | low) >>> 0
    if (Number.isNaN(values[i]!)) values[i] = 65519.996
  }
  // Half of them in the range of float16, subnormals included.
  for (let i = 0; i < values.length; i += 2) bits[i] = ((bits[i]! & 0x8fffffff) | 0x30000000 | ((i & 0x1e) << 23)) >>> 0
  return values
}

describe('against onnxruntime', () => {
  let toFloat: ort.InferenceSession
  let toHalf: ort.InferenceSession
  let throughBfloat: ort.InferenceSession
  beforeAll(async () => {
    toFloat = await castSession(FLOAT16, [1])
    toHalf = await castSession(1, [FLOAT16])
    throughBfloat = await castSession(1, [BFLOAT16, 1])
  })

  test('all 65,536 halves have the right value', async () => {
    const { y } = await toFloat.run({ x: new ort.Tensor('float16', allBits, [0x10000]) })
    const theirs = y!.data as Float32Array
    const ours = halvesToFloats(allBits)
    for (let i = 0; i < allBits.length; i++) {
      if (!Object.is(ours[i], theirs[i])) expect.fail(`half ${i}: ${ours[i]}, onnxruntime says ${theirs[i]}`)
      if (!Object.is(ours[i], halfToFloat(i))) expect.fail(`half ${i}: bulk and scalar differ`)
    }
  })

  test('floats round to the right half', async () => {
    const x = hardFloats()
    const { y } = await toHalf.run({ x: new ort.Tensor('float32', x, [0x10000]) })
    const ours = floatsToHalves(x)
    // Node 20 has no Float16Array, so the runtime hands out bits.
    expect(y!.data).toBeInstanceOf(Uint16Array)
    const theirs = y!.data as unknown as Uint16Array
    for (let i = 0; i < x.length; i++) if (ours[i] !== theirs[i]) expect.fail(`${x[i]}: ${ours[i]}, not ${theirs[i]}`)
    expect(new Set(ours).size).toBeGreaterThan(5000)
  })

  test('floats round to the right bfloat16', async () => {
    const x = hardFloats()
    const { y } = await throughBfloat.run({ x: new ort.Tensor('float32', x, [0x10000]) })
    const ours = bitsOf(bfloat16sToFloats(floatsToBfloat16s(x)))
    const theirs = bitsOf(y!.data as Float32Array)
    for (let i = 0; i < x.length; i++) if (ours[i] !== theirs[i]) expect.fail(`${x[i]}: ${ours[i]}, not ${theirs[i]}`)
  })
})

describe.each([
  {
    name: 'half',
    encode: floatToHalf,
    decode: halfToFloat,
    round: roundToHalf,
    largest: 65504,
    spacing: 32,
    inf: 0x7c00,
  },
  {
    name: 'bfloat16',
    encode: floatToBfloat16,
    decode: bfloat16ToFloat,
    round: roundToBfloat16,
    largest: 255 * 2 ** 120,
    spacing: 2 ** 120,
    inf: 0x7f80,
  },
])('$name', ({ encode, decode, round, largest, spacing, inf }) => {
  test('every value returns unchanged', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const number = decode(bits)
      if (Number.isNaN(number))
        expect((encode(number) & inf) === inf && (encode(number) & ~inf & 0x7fff) !== 0).toBe(true)
      else if (encode(number) !== bits) expect.fail(`${bits} came back as ${encode(number)}`)
    }
  })

  test('a double goes to the nearest value, on a tie to the even one: search through all values', () => {
    const finite = Array.from({ length: inf }, (_, bits) => decode(bits))
    const nearest = (x: number): number => {
      let low = 0
      let high = finite.length - 1
      while (high - low > 1) {
        const middle = (low + high) >> 1
        if (finite[middle]! <= x) low = middle
        else high = middle
      }
      const below = x - finite[low]!
      const above = finite[high]! - x
      return below < above || (below === above && low % 2 === 0) ? low : high
    }
    const magnitude = fc.oneof(
      fc.double({ min: 0, max: largest, noNaN: true }),
      fc.double({ min: 0, max: 2 ** -12, noNaN: true }),
      // Ties, and the doubles next to ties: rounding through float32 first would get these wrong.
      fc.tuple(fc.integer({ min: 0, max: inf - 2 }), fc.constantFrom(-1, 0, 1)).map(([bits, side]) => {
        const middle = (decode(bits) + decode(bits + 1)) / 2
        return middle * (1 + side * 2 ** -50)
      }),
    )
    fc.assert(
      fc.property(magnitude, fc.boolean(), (x, negative) => {
        expect(encode(negative ? -x : x)).toBe(nearest(x) | (negative ? 0x8000 : 0))
        expect(round(negative ? -x : x)).toBe(decode(encode(negative ? -x : x)))
      }),
      { numRuns: 3000, seed: 11 },
    )
  })

  test('overflow, zeros and the smallest subnormal', () => {
    expect(encode(largest + spacing / 2)).toBe(inf)
    expect(encode(-(largest + spacing / 2))).toBe(inf | 0x8000)
    expect(encode((largest + spacing / 2) * (1 - 2 ** -50))).toBe(inf - 1)
    expect(round(Number.MAX_VALUE)).toBe(Number.POSITIVE_INFINITY)
    expect(round(Number.NEGATIVE_INFINITY)).toBe(Number.NEGATIVE_INFINITY)
    expect(round(Number.NaN)).toBeNaN()
    expect(encode(-0)).toBe(0x8000)
    expect(Object.is(round(-Number.MIN_VALUE), -0)).toBe(true)
    const smallest = decode(1)
    expect(encode(smallest / 2)).toBe(0)
    expect(encode((smallest / 2) * (1 + 2 ** -50))).toBe(1)
    expect(encode(smallest * 1.5)).toBe(2)
  })
})
