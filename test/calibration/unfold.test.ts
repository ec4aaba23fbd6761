import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { unfoldedElements } from '../../src/calibration/unfold.ts'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { makeNode } from '../../src/onnx/proto.ts'
import { flatIndex, im2col, indicesOf, type Window, windowPositions } from '../oracles/im2col.ts'
import {
  draw,
  energy,
  expectClose,
  expectStatistics,
  feed,
  rowsOf,
  runModel,
  runTap,
  slowStatistics,
  smallModel,
  squares,
  tapIn,
  weight,
} from './tapRuns.ts'

interface Case {
  readonly window: Window
  readonly image: readonly number[]
  /** Output channels per group. */
  readonly outputs: number
}

const product = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1)

function attributesOf({ groups, strides, dilations, pads, autoPad }: Window) {
  const padding = autoPad === 'NOTSET' ? { pads } : { auto_pad: autoPad }
  return { group: groups, strides, dilations, ...padding }
}

function convModel({ window, image, outputs }: Case, options: { opset?: number; operator?: string } = {}) {
  const { opset = 17, operator = 'Conv' } = options
  const dims = [window.groups * outputs, image[1]! / window.groups, ...window.kernel]
  const data = draw(dims, 7)
  const domain = operator === 'Conv' ? '' : 'com.microsoft'
  const model = smallModel({
    nodes: [makeNode(operator, ['x', 'w'], ['y'], { domain, attributes: attributesOf(window) })],
    weights: [weight('w', dims, data)],
    inputs: { x: image },
    opset,
  })
  return { model, data }
}

/** W·X by group and row, laid out as Conv's output. */
function products(
  rows: readonly (readonly number[])[],
  x: readonly (readonly (readonly number[])[])[],
  images: number,
) {
  const share = rows.length / x.length
  const positions = x[0]!.length / images
  return indicesOf([images, rows.length, positions]).map(([n, row, p]) =>
    x[Math.floor(row! / share)]![n! * positions + p!]!.reduce((sum, value, k) => sum + value * rows[row!]![k]!, 0),
  )
}

async function check(c: Case, options: { opset?: number; operator?: string } = {}) {
  const { model, data } = convModel(c, options)
  const { index, layer, tap } = tapIn(model)
  const image = draw(c.image, 3)
  const x = im2col(image, c.image, c.window)
  const y = (await runModel(model, { x: feed(c.image, image) })).get('y')!.data as Float32Array
  expectClose(y, products(rowsOf(layer, data), x, c.image[0]!), 'Conv')
  const actual = await runTap(tap, index, { quantized: { x: feed(c.image, image) } })
  expectStatistics(actual, slowStatistics(x))
  expect(unfoldedElements(tap, [c.image])).toBe(product([x.length, x[0]!.length, x[0]![0]!.length]) / c.image[0]!)
}

const random: fc.Arbitrary<Case> = fc.integer({ min: 1, max: 3 }).chain((rank) => {
  const each = (min: number, max: number) => fc.array(fc.integer({ min, max }), { minLength: rank, maxLength: rank })
  return fc
    .record({
      groups: fc.integer({ min: 1, max: 3 }),
      own: fc.integer({ min: 1, max: 3 }),
      outputs: fc.integer({ min: 6, max: 12 }).map((n) => n * 11),
      images: fc.integer({ min: 1, max: 2 }),
      kernel: each(1, 3),
      strides: each(1, 3),
      dilations: each(1, 2),
      begins: each(0, 2),
      ends: each(0, 2),
      size: each(5, 7),
      autoPad: fc.constantFrom<Window['autoPad']>('NOTSET', 'NOTSET', 'VALID', 'SAME_UPPER', 'SAME_LOWER'),
    })
    .map((c) => ({
      outputs: c.outputs,
      image: [c.images, c.groups * c.own, ...c.size],
      window: {
        groups: c.groups,
        kernel: c.kernel,
        strides: c.strides,
        // The runtime does not combine SAME with dilations.
        dilations: c.autoPad.startsWith('SAME') ? c.dilations.map(() => 1) : c.dilations,
        pads: [...c.begins, ...c.ends],
        autoPad: c.autoPad,
      },
    }))
})

const plain = (window: Partial<Window>): Window => ({
  groups: 1,
  kernel: [3, 3],
  strides: [1, 1],
  dilations: [1, 1],
  pads: [0, 0, 0, 0],
  autoPad: 'NOTSET',
  ...window,
})

describe('convolutions', () => {
  it('of any geometry: the window by definition, and W·X is what onnxruntime computes', async () => {
    await fc.assert(
      fc.asyncProperty(random, (c) => check(c)),
      { numRuns: 60, seed: 11 },
    )
  })

  it.each([7, 11, 13, 18, 21, 22])('in opset %i, and fused', async (opset) => {
    const window = plain({ pads: [1, 0, 2, 1], strides: [2, 1] })
    await check({ window, image: [2, 3, 6, 5], outputs: 8 }, { opset })
    await check({ window, image: [2, 3, 6, 5], outputs: 8 }, { opset, operator: 'FusedConv' })
  })

  it('depthwise: one small Gram matrix per channel', async () => {
    const c = { window: plain({ groups: 12, pads: [1, 1, 1, 1] }), image: [2, 12, 6, 5], outputs: 1 }
    const { tap } = tapIn(convModel(c).model)
    expect([tap.blocks, tap.cols]).toEqual([12, 9])
    await check(c)
  })

  it('1×1 with padding or strides are not plain channels', async () => {
    const kernel = [1, 1]
    await check({ window: plain({ kernel, pads: [1, 0, 0, 1] }), image: [2, 8, 4, 4], outputs: 8 })
    await check({ window: plain({ kernel, strides: [2, 1] }), image: [2, 8, 5, 4], outputs: 8 })
    await check({ window: plain({ kernel, autoPad: 'SAME_UPPER', groups: 2 }), image: [2, 8, 5, 4], outputs: 8 })
  })

  it('read defaults where the node says nothing', async () => {
    const nodes = [makeNode('Conv', ['x', 'w'], ['y'])]
    const model = smallModel({ nodes, weights: [weight('w', [8, 3, 3, 3], draw([216], 1))], inputs: { x: undefined } })
    const { index, tap } = tapIn(model)
    const image = draw([2, 3, 5, 4], 2)
    const actual = await runTap(tap, index, { quantized: { x: feed([2, 3, 5, 4], image) } })
    expectStatistics(actual, slowStatistics(im2col(image, [2, 3, 5, 4], plain({}))))
  })

  it('of pieces of a batch add up', async () => {
    const c = { window: plain({ strides: [2, 2], pads: [1, 1, 1, 1] }), image: [3, 4, 5, 5], outputs: 4 }
    const { index, tap } = tapIn(convModel(c).model)
    const image = draw(c.image, 5)
    const run = (from: number, to: number): Promise<Awaited<ReturnType<typeof runTap>>> => {
      const piece: FeedTensor = feed([to - from, 4, 5, 5], image.slice(from * 100, to * 100))
      return runTap(tap, index, { quantized: { x: piece } })
    }
    const [all, first, rest] = [await run(0, 3), await run(0, 1), await run(1, 3)]
    expect(all.count).toBe(first.count + rest.count)
    expectClose(
      all.gram[0]!,
      first.gram[0]!.map((v, i) => v + rest.gram[0]![i]!),
      'gram',
    )
  })

  it('cross statistics have a row for each number of the float window', async () => {
    const c = { window: plain({ groups: 2, pads: [1, 1, 0, 0] }), image: [2, 4, 5, 4], outputs: 4 }
    const { index, tap } = tapIn(convModel(c).model)
    const [x, f] = [draw(c.image, 5), draw(c.image, 6)]
    const feeds = { quantized: { x: feed(c.image, x) }, float: { x: feed(c.image, f) } }
    const expected = slowStatistics(im2col(x, c.image, c.window), im2col(f, c.image, c.window))
    expectStatistics(await runTap(tap, index, feeds), expected)
  })
})

describe('transposed convolutions', () => {
  const image = [2, 32, 3, 4]
  const transposed = (groups: number, kernel: number[], outputs: number) => {
    const dims = [32, outputs, ...kernel]
    const data = draw(dims, 8)
    const attributes = { group: groups, strides: kernel }
    const model = smallModel({
      nodes: [makeNode('ConvTranspose', ['x', 'w'], ['y'], { attributes })],
      weights: [weight('w', dims, data)],
      inputs: { x: image },
    })
    return { model, data }
  }

  it.each([1, 2])('see the channels of %i groups: windows that do not overlap give W·X', async (groups) => {
    const kernel = [2, 3]
    const { model, data } = transposed(groups, kernel, 3)
    const { index, layer, tap } = tapIn(model)
    const x = draw(image, 9)
    const channels = im2col(x, image, plain({ groups, kernel: [1, 1] }))
    const y = (await runModel(model, { x: feed(image, x) })).get('y')!.data as Float32Array
    const rows = rowsOf(layer, data)
    const share = rows.length / groups
    const outDims = [2, groups * 3, 6, 12]
    const wanted = new Float64Array(product(outDims))
    for (const [n, row, i, j] of indicesOf([2, rows.length, 3, 4]) as [number, number, number, number][]) {
      const group = Math.floor(row / share)
      const [m, a, b] = [Math.floor((row % share) / 6), Math.floor((row % 6) / 3), row % 3]
      const own = channels[group]![(n * 3 + i) * 4 + j]!
      const at = flatIndex([n, group * 3 + m, i * 2 + a, j * 3 + b], outDims)
      wanted[at] = own.reduce((sum, value, k) => sum + value * rows[row]![k]!, 0)
    }
    expectClose(y, wanted, 'ConvTranspose')
    const actual = await runTap(tap, index, { quantized: { x: feed(image, x) } })
    expectStatistics(actual, slowStatistics(channels))
    expectClose([energy(rows, actual)], [squares(y)], 'energy')
    expect(unfoldedElements(tap, [image])).toBe(32 * 12)
  })
})

describe('unfoldedElements', () => {
  it('counts the positions of the window', () => {
    const window = plain({ strides: [2, 3], dilations: [2, 1], pads: [1, 0, 2, 4] })
    const c = { window, image: [5, 4, 9, 8], outputs: 4 }
    const { tap } = tapIn(convModel(c).model)
    expect(unfoldedElements(tap, [c.image])).toBe(36 * product(windowPositions([9, 8], window)))
  })

  it('is 0 where axis 0 is not one of samples', () => {
    const product = (dims: number[], x: readonly number[]) =>
      tapIn(
        smallModel({
          nodes: [makeNode('MatMul', ['w', 'x'], ['y'])],
          weights: [weight('w', dims, draw(dims, 1))],
          inputs: { x },
        }),
      ).tap
    expect(unfoldedElements(product([8, 16], [16, 5]), [[16, 5]])).toBe(0)
    expect(unfoldedElements(product([8, 16], [3, 16, 5]), [[3, 16, 5]])).toBe(80)
    expect(unfoldedElements(product([2, 8, 16], [2, 16, 5]), [[2, 16, 5]])).toBe(0)
    expect(unfoldedElements(product([2, 8, 16], [3, 2, 16, 5]), [[3, 2, 16, 5]])).toBe(160)
    expect(unfoldedElements(product([2, 8, 16], [3, 1, 16, 5]), [[3, 1, 16, 5]])).toBe(160)
    expect(unfoldedElements(product([8, 16], [16]), [[16]])).toBe(0)
  })
})
