/** Weights in awkward places come out as a model that computes what it did. */
import * as ort from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import { type ModelProto, makeNode, makeOpset, type NodeProto } from '../../src/onnx/proto.ts'
import { branches, constant, model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { activations, normals, roundTrip } from './roundTrip.ts'

const directory = useTempDir()
/** Relative distance of outputs at 4 bits, with room for int8 activations. */
const FOUR_BITS = 0.2

const fn = (name: string, inputs: readonly string[], output: string, node: NodeProto[], opset = 17) => ({
  name,
  domain: 'local',
  input: [...inputs],
  output: [output],
  opsetImport: [makeOpset('', opset)],
  node,
})

/** y = f₁(f₂(…(x))) for local functions of one argument. */
function calls(functions: ReturnType<typeof fn>[], opset = 17): ModelProto {
  const node = functions.map(({ name }, i) =>
    makeNode(name, [i === 0 ? 'x' : `h${i}`], [i === functions.length - 1 ? 'y' : `h${i + 1}`], { domain: 'local' }),
  )
  const opsetImport = [makeOpset('', opset), makeOpset('local', 1)]
  return model({ node, input: [value('x', [2, 64])], output: [value('y', [2, 64])] }, { opsetImport, functions })
}

describe.each([4, 3] as const)('at %i bits', (bits) => {
  const limit = bits === 4 ? FOUR_BITS : 2 * FOUR_BITS

  it('functions whose weights and nodes have the same names', async () => {
    const body = (name: string, seed: number) =>
      fn(name, ['a'], 'b', [
        constant('w', normals(`${seed}`.repeat(seed), [64, 64], 0.2)),
        makeNode('MatMul', ['a', 'w'], ['b'], { name: 'mm' }),
      ])
    const proto = calls([body('A', 1), body('B', 2), body('C', 3)])
    const { report, distance } = await roundTrip(directory, proto, { x: activations(2, 64) }, { bits })
    expect(report.layers.map((layer) => layer.name)).toEqual(['mm', 'w', 'w~2'])
    expect(report.verified).toHaveLength(3)
    expect(distance).toBeLessThan(limit)
  })

  it('a branch of an If in a function', async () => {
    const inner = branches(normals('t_w', [32, 32]), normals('e', [32, 32]))
    const proto = model(
      {
        node: [makeNode('F', ['x', 'c'], ['z'], { domain: 'local' })],
        input: [value('x', [1, 32]), value('c', [], 9)],
        output: [value('z', [1, 32])],
      },
      {
        opsetImport: [makeOpset('', 17), makeOpset('local', 1)],
        functions: [fn('F', ['x', 'c'], 'z', [inner])],
      },
    )
    for (const branch of [0, 1]) {
      const feeds = { x: activations(1, 32), c: new ort.Tensor('bool', Uint8Array.of(branch), []) }
      const { report, distance } = await roundTrip(directory, proto, feeds, { bits })
      expect(report.layers).toHaveLength(2)
      expect(distance).toBeLessThan(limit)
    }
  })

  it('nodes of the default domain under its long name', async () => {
    const domain = 'ai.onnx'
    const proto = model({
      initializer: [normals('w', [40, 64])],
      node: [
        makeNode('Transpose', ['w'], ['wt'], { domain, attributes: { perm: [1, 0] } }),
        makeNode('MatMul', ['x', 'wt'], ['y'], { domain }),
      ],
      input: [value('x', [2, 64])],
      output: [value('y', [2, 40])],
    })
    const { written, distance } = await roundTrip(directory, proto, { x: activations(2, 64) }, { bits })
    expect(written.graph!.node.map((node) => node.opType)).not.toContain('Transpose')
    expect(distance).toBeLessThan(limit)
  })

  it('one weight read both ways, as it is and turned', async () => {
    const proto = model({
      initializer: [normals('w', [32, 64], 0.1)],
      node: [makeNode('Gemm', ['x', 'w'], ['h'], { attributes: { transB: 1 } }), makeNode('MatMul', ['h', 'w'], ['y'])],
      input: [value('x', [2, 64])],
      output: [value('y', [2, 64])],
    })
    const { report, distance } = await roundTrip(directory, proto, { x: activations(2, 64) }, { bits })
    expect(report.layers[0]!.representations).toEqual(['MatMulNBits', 'folded'])
    expect(distance).toBeLessThan(limit)
  })

  it('two constants multiplied with each other', async () => {
    const proto = model({
      initializer: [normals('v', [64, 64], 0.1), normals('w', [64, 64], 0.1)],
      node: [makeNode('MatMul', ['v', 'w'], ['vw']), makeNode('MatMul', ['x', 'vw'], ['y'])],
      input: [value('x', [2, 64])],
      output: [value('y', [2, 64])],
    })
    const { report, distance } = await roundTrip(directory, proto, { x: activations(2, 64) }, { bits })
    expect(report.layers).toHaveLength(2)
    expect(distance).toBeLessThan(limit)
  })
})

describe('a weight that also leaves the model', () => {
  it.each(['w', 'wt'])('as %s', async (output) => {
    const proto = model({
      initializer: [normals('w', [64, 64])],
      node: [makeNode('Transpose', ['w'], ['wt']), makeNode('MatMul', ['x', 'wt'], ['y'])],
      input: [value('x', [2, 64])],
      output: [value('y', [2, 64]), value(output, [64, 64])],
    })
    const { report, distance } = await roundTrip(directory, proto, { x: activations(2, 64) }, { bits: 8 })
    expect(report.verified!.map((use) => use.representation).sort()).toEqual(['MatMulNBits', 'folded'])
    expect(distance).toBeLessThan(0.02)
  })
})

it('a function of an older opset than the model keeps its operators', async () => {
  // Softmax changed in opset 13: raising this one is not possible without knowing the rank of its input.
  const body = fn(
    'Old',
    ['a'],
    'b',
    [
      constant('w', normals('w', [64, 64], 0.2)),
      makeNode('MatMul', ['a', 'w'], ['m']),
      makeNode('Softmax', ['m'], ['b']),
    ],
    12,
  )
  const proto = calls([body], 21)
  const four = await roundTrip(directory, proto, { x: activations(2, 64) }, { bits: 4 })
  expect(four.report.opset).toEqual({ from: 21, to: 21 })
  expect(four.report.layers[0]).toMatchObject({ bits: 4, notes: [] })
  expect(four.written.functions[0]!.opsetImport.find(({ domain }) => domain === '')!.version).toBe(12n)
  // What needs a newer opset than the function has is stored otherwise, with a note.
  const three = await roundTrip(directory, proto, { x: activations(2, 64) }, { bits: 3 })
  expect(three.report.layers[0]!.bits).toBe(4)
  expect(three.report.layers[0]!.notes[0]).toMatch(/opset 12/)
  for (const { distance } of [four, three]) expect(distance).toBeLessThan(0.1)
})
