import fs from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { excise, type Piece, splice } from '../../src/onnx/excise.ts'
import { INLINE_LIMIT } from '../../src/onnx/model.ts'
import { decodeModel } from '../../src/onnx/proto.ts'
import { type ByteSource, memorySource, putVarint, varintSize } from '../../src/onnx/wire.ts'
import { tensorsIndependently } from '../helpers/independentReader.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { branches, chain, constant, encodeModel, floats, makeNode, makeTensor, model } from '../helpers/smallModels.ts'

/** A source that, like a file, hands out only a few bytes at a time. */
function windowedSource(bytes: Uint8Array, size: number): ByteSource & { largest: number } {
  const source = {
    size: bytes.length,
    largest: 0,
    window: (offset: number) => bytes.slice(offset, offset + size),
    copy: (offset: number, into: Uint8Array) => {
      source.largest = Math.max(source.largest, into.length)
      into.set(bytes.subarray(offset, offset + into.length))
    },
  }
  return source
}

/** Put the pieces together again. */
function assemble(pieces: readonly Piece[], payloads: readonly Uint8Array[]): Buffer {
  return Buffer.concat(pieces.map((piece) => ('bytes' in piece ? piece.bytes : payloads[piece.payload]!)))
}

function expectRoundTrip(file: Uint8Array, source: ByteSource): ReturnType<typeof excise> {
  const excised = excise(source)
  const payloads = excised.payloads.map(({ offset, length }) => file.subarray(offset, offset + length))
  const { pieces, totalBytes } = splice(
    excised.skeleton,
    payloads.map((payload) => payload.length),
  )
  expect(totalBytes).toBe(file.length)
  expect(assemble(pieces, payloads).equals(file)).toBe(true)
  return excised
}

/** A model with tensors at every place that can hold one; `sizes` are float counts. */
function everywhere(sizes: readonly number[]): Uint8Array {
  let next = 0
  const tensor = () => floats(`w${next}`, [sizes[next++ % sizes.length]!])
  const withTensors = makeNode('Custom', [], ['k'], { domain: 'own' })
  withTensors.attribute = model({
    node: [
      {
        attribute: [
          { name: 'list', type: 9, tensors: [tensor(), tensor()] },
          { name: 'sparse', type: 11, sparseTensor: { values: tensor(), indices: tensor(), dims: [9n] } },
          { name: 'graphs', type: 10, graphs: [{ name: 'a', initializer: [tensor()] }, { name: 'b' }] },
        ],
      },
    ],
  }).graph!.node[0]!.attribute
  const proto = model(
    {
      node: [constant('c0', tensor()), branches(tensor(), tensor()), withTensors],
      initializer: [
        tensor(),
        tensor(),
        makeTensor({ name: 'f', dims: [300n], dataType: 1, floatData: Array(300).fill(1) }),
      ],
      sparseInitializer: [{ values: tensor(), indices: tensor(), dims: [9n] }],
    },
    {
      functions: [
        { name: 'fn', node: [constant('c1', tensor())], attributeProto: [{ name: 'd', type: 4, t: tensor() }] },
      ],
      trainingInfo: [{ algorithm: { initializer: [tensor()] } }],
      docString: 'ä'.repeat(200),
    },
  )
  // Fields of a later schema, one of each wire type, at the end of a tensor and of the model.
  const unknown = [
    { no: 999, wireType: 0, data: Uint8Array.of(0x96, 1) },
    { no: 1000, wireType: 1, data: new Uint8Array(8).fill(7) },
    { no: 1001, wireType: 2, data: Uint8Array.of(3, 1, 2, 3) },
    { no: 1002, wireType: 5, data: new Uint8Array(4).fill(9) },
    { no: 1003, wireType: 3, data: Uint8Array.of(0x08, 1, 0xdc, 0x3e) },
  ]
  proto.$unknown = unknown
  proto.graph!.initializer[0]!.$unknown = unknown
  return encodeModel(proto)
}

describe('excise and splice', () => {
  test.each(Object.entries(npmModels))('%s comes out byte for byte', (_, path) => {
    const file = fs.readFileSync(path)
    const { skeleton, payloads } = expectRoundTrip(file, memorySource(file))
    const large = tensorsIndependently(file).filter((tensor) => (tensor.rawData?.length ?? 0) > INLINE_LIMIT)
    expect(large.length).toBeGreaterThan(0)
    expect(payloads.map(({ length }) => length).sort()).toEqual(large.map((tensor) => tensor.rawData!.length).sort())
    const bytes = payloads.reduce((sum, { length }) => sum + length, 0)
    expect(skeleton.length).toBeLessThan(file.length - bytes + 16 * payloads.length)
  })

  test('a window of 16 bytes finds the same as the whole file in memory, and payloads are not copied', () => {
    const file = everywhere([3000, 100, 1000])
    const source = windowedSource(file, 16)
    const excised = expectRoundTrip(file, source)
    expect(excised).toEqual(excise(memorySource(file)))
    expect(source.largest).toBeLessThan(4000)
  })

  test('every place that can hold a tensor is found', () => {
    const file = everywhere([INLINE_LIMIT / 4 + 1])
    const { payloads, skeleton } = expectRoundTrip(file, memorySource(file))
    expect(payloads).toHaveLength(15)
    expect(decodeModel(skeleton).graph!.initializer[0]!.name).toBe('w8')
  })

  test('tensor sizes around the limit, and around the widths of length prefixes', () => {
    const size = fc.oneof(
      fc.integer({ min: 0, max: 40 }),
      fc.integer({ min: 250, max: 260 }),
      fc.constantFrom(4094, 4095, 4096),
    )
    fc.assert(
      fc.property(fc.array(size, { minLength: 1, maxLength: 15 }), (sizes) => {
        const file = everywhere(sizes)
        const { payloads } = expectRoundTrip(file, memorySource(file))
        for (const { length } of payloads) expect(length).toBeGreaterThan(INLINE_LIMIT)
      }),
      { numRuns: 60, seed: 7 },
    )
  })

  test('lengths that a writer padded keep their width', () => {
    const tensor = Buffer.concat([Uint8Array.of(0x4a, 0x80, 0x10), new Uint8Array(2048)])
    // initializer and graph with lengths of five bytes.
    const wrap = (tag: number, content: Uint8Array): Buffer => {
      const head = new Uint8Array(6)
      head[0] = tag
      putVarint(head, 1, content.length, 5)
      return Buffer.concat([head, content])
    }
    const file = wrap((7 << 3) | 2, wrap((5 << 3) | 2, tensor))
    const { payloads, skeleton } = expectRoundTrip(file, memorySource(file))
    expect(payloads).toEqual([{ offset: 15, length: 2048 }])
    expect(decodeModel(skeleton).graph!.initializer).toHaveLength(1)
  })

  test('splice computes what an encoder with the bytes in place would write', () => {
    fc.assert(
      fc.property(fc.integer({ min: 257, max: 5000 }), fc.integer({ min: 8, max: 3_000_000 }), (before, after) => {
        const proto = chain([floats('w', [before])])
        const { skeleton } = excise(memorySource(encodeModel(proto)))
        proto.graph!.initializer[0]!.rawData = new Uint8Array(after).fill(5)
        // As saving does it: lengths in a skeleton that was encoded anew are not padded.
        const { totalBytes, pieces } = splice(encodeModel(decodeModel(skeleton)), [after])
        expect(totalBytes).toBe(encodeModel(proto).length)
        expect(assemble(pieces, [proto.graph!.initializer[0]!.rawData]).equals(encodeModel(proto))).toBe(true)
      }),
      { numRuns: 20, seed: 3 },
    )
  })
})

describe('varints', () => {
  test('size and bytes', () => {
    const cases: [number, number[]][] = [
      [0, [0]],
      [127, [0x7f]],
      [128, [0x80, 1]],
      [2 ** 32, [0x80, 0x80, 0x80, 0x80, 0x10]],
      [Number.MAX_SAFE_INTEGER, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]],
    ]
    for (const [value, bytes] of cases) {
      const into = new Uint8Array(varintSize(value))
      putVarint(into, 0, value, into.length)
      expect([...into]).toEqual(bytes)
    }
  })
})

describe('what is not well-formed is refused', () => {
  const bytes = (...list: number[]) => memorySource(Uint8Array.from(list))
  test.each([
    [
      'a length of 2^60',
      bytes(0x3a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10),
      /graph of 115\d+ bytes, but only 0 follow/,
    ],
    [
      'a length beyond the message',
      bytes(0x3a, 3, 0x2a, 5, 0),
      /model\.graph has initializer of 5 bytes, but only 1 follow/,
    ],
    ['a cut varint', bytes(0x08, 0x80), /middle of a number/],
    ['a varint of 11 bytes', bytes(0x08, ...Array(10).fill(0x80), 0), /more than 10 bytes/],
    ['field number 0', bytes(0x02, 0), /impossible tag/],
    ['wire type 7', bytes(0x0f, 0), /impossible wire type 7/],
    ['an end without a group', bytes(0x0c), /impossible wire type 4/],
    ['a group without end', bytes(0x0b, 0x08, 1), /group 1 without an end/],
    ['a graph that is a number', bytes(0x38, 5), /graph with wire type 0/],
    ['a cut double', bytes(0x09, 1, 2, 3), /middle of a number/],
    ['groups in groups', bytes(...Array(200).fill(0x0b)), /nests deeper than 100/],
  ])('%s', (_, source, message) => {
    expect(() => excise(source)).toThrow(message)
  })

  test('the marker in a file', () => {
    const { skeleton } = excise(memorySource(encodeModel(chain([floats('w', [32, 32])]))))
    expect(() => excise(memorySource(skeleton))).toThrow(/reserved/)
  })

  test('graphs nested 60 deep', () => {
    let content = new Uint8Array(0)
    const wrap = (tag: number) => {
      const head = new Uint8Array(1 + varintSize(content.length))
      head[0] = tag
      putVarint(head, 1, content.length, head.length - 1)
      content = Uint8Array.from([...head, ...content])
    }
    for (let i = 0; i < 60; i++) for (const tag of [0x32, 0x2a, 0x0a]) wrap(tag)
    wrap(0x3a)
    expect(() => excise(memorySource(content))).toThrow(/nests deeper than 100/)
  })

  test('numbers beyond what can be decoded', () => {
    const head = (length: number, tag: number) => {
      const into = new Uint8Array(1 + varintSize(length))
      into[0] = tag
      putVarint(into, 1, length, into.length - 1)
      return [...into]
    }
    const size = 2 ** 26 + 10
    const start = [...head(size + 10, 0x3a), ...head(size + 5, 0x2a), ...head(size, 0x3a)]
    const source: ByteSource = {
      size: start.length + size,
      window: (offset) => Uint8Array.from({ length: 32 }, (_, i) => start[offset + i] ?? 0),
      copy: () => {},
    }
    expect(() => excise(source)).toThrow(/64 MiB in int64_data/)
  })
})
