import { describe, expect, test } from 'vitest'
import { LayerInputModification } from '../../src/hessian/layerInput.ts'
import { makeRandom } from '../../src/random.ts'

const WIDTH = 8
const random = makeRandom(2)
const states = (tokens: number) => Float32Array.from({ length: tokens * WIDTH }, () => random.normal())

function limOf(input: ArrayLike<number>, output: ArrayLike<number>, weights?: ArrayLike<number>): number | undefined {
  const lim = new LayerInputModification()
  lim.add(input, output, WIDTH, weights)
  return lim.value
}

/** Mean of −cos over tokens, each from its angle's definition. */
function plain(input: Float32Array, output: Float32Array): number {
  const cosines = Array.from({ length: input.length / WIDTH }, (_, t) => {
    const a = [...input.subarray(t * WIDTH, (t + 1) * WIDTH)]
    const b = [...output.subarray(t * WIDTH, (t + 1) * WIDTH)]
    return a.reduce((sum, v, k) => sum + v * b[k]!, 0) / (Math.hypot(...a) * Math.hypot(...b))
  })
  return -cosines.reduce((a, b) => a + b, 0) / cosines.length
}

describe('LIM', () => {
  const input = states(20)

  test('is exactly −1 of the identity, 1 of the negation', () => {
    expect(limOf(input, input)).toBe(-1)
    for (let t = 0; t < 20; t++) {
      const token = input.subarray(t * WIDTH, (t + 1) * WIDTH)
      expect(limOf(token, token)).toBe(-1)
    }
    expect(
      limOf(
        input,
        input.map((v) => -v),
      ),
    ).toBe(1)
    expect(
      limOf(
        input,
        input.map((v) => 4 * v),
      ),
    ).toBe(-1)
  })

  test('is the mean of the tokens, whatever their lengths', () => {
    const output = states(20)
    expect(limOf(input, output)).toBeCloseTo(plain(input, output), 12)
    const longer = output.map((v, at) => v * 2 ** Math.floor(at / WIDTH))
    expect(limOf(input, longer)).toBeCloseTo(limOf(input, output)!, 12)
  })

  test('the cut into batches and the order of tokens change nothing', () => {
    const output = states(20)
    const lim = new LayerInputModification()
    lim.add(input.subarray(5 * WIDTH), output.subarray(5 * WIDTH), WIDTH)
    lim.add(input.subarray(0, 5 * WIDTH), output.subarray(0, 5 * WIDTH), WIDTH)
    expect(lim.value).toBeCloseTo(limOf(input, output)!, 12)
  })

  test('tokens weigh as they are told; padding does not, whatever it holds', () => {
    const output = states(20)
    const half = Array.from({ length: 20 }, (_, t) => (t < 10 ? 1 : 0))
    const padded = output.map((v, at) => (at < 10 * WIDTH ? v : Number.NaN))
    expect(limOf(input, padded, half)).toBe(limOf(input.subarray(0, 10 * WIDTH), output.subarray(0, 10 * WIDTH)))
    // Two tokens, one unchanged and one turned round: (−1·3 + 1·1) / 4.
    const two = input.subarray(0, 2 * WIDTH)
    expect(
      limOf(
        two,
        two.map((v, at) => (at < WIDTH ? v : -v)),
        [3, 1],
      ),
    ).toBe(-0.5)
  })

  test('tokens without a direction do not count', () => {
    const zero = new Float32Array(WIDTH)
    expect(limOf(zero, zero)).toBeUndefined()
    expect(new LayerInputModification().value).toBeUndefined()
    const [first] = [input.subarray(0, WIDTH)]
    expect(limOf([...first, ...zero], [...first, ...first])).toBe(-1)
    expect(
      limOf(
        input,
        input.map((v, at) => (at === 3 ? Number.NaN : v)),
      ),
    ).toBeNaN()
  })

  test('shapes must agree', () => {
    expect(() => limOf(input, states(19))).toThrow(RangeError)
    expect(() => limOf([1, 2, 3], [1, 2, 3])).toThrow(RangeError)
    expect(() => limOf(input, input, [1])).toThrow(RangeError)
  })
})
