/** @file Random networks that onnxruntime can run: float values [batch, 4], constants behind nodes, branches, shapes. */
import fc from 'fast-check'
import { DataType, type ModelProto, makeModel, makeNode, makeTensor, type NodeProto } from '../../src/onnx/proto.ts'
import { draw, smallModel, weight } from './tapRuns.ts'

export interface Step {
  readonly kind: number
  /** Which values it reads, counted among those made before. */
  readonly a: number
  readonly b: number
  readonly weight: number
}

const WIDTH = 4
const WEIGHTS = ['w0', 'w1', 'w2']
const nat = fc.nat(1000)

export const steps = (maxLength: number): fc.Arbitrary<Step[]> =>
  fc.array(fc.record({ kind: nat, a: nat, b: nat, weight: nat }), { minLength: 2, maxLength })

/** `If` whose branches see the values of the main graph: then a + w, else a − b. */
export function branch(condition: string, output: string, a: string, b: string, w: string): NodeProto {
  const graph = (name: string, inner: NodeProto) => ({
    name,
    type: 5,
    g: { name, node: [inner], output: [{ name: inner.output[0]! }] },
  })
  const node = makeNode('If', [condition], [output], { name: output })
  const attribute = [
    graph('then_branch', makeNode('Add', [a, w], [`${output}/then`])),
    graph('else_branch', makeNode('Sub', [a, b], [`${output}/else`])),
  ]
  node.attribute = makeModel({ graph: { node: [{ attribute }] } }).graph!.node[0]!.attribute
  return node
}

/** Nodes of one step, which makes `name`; the last of them makes it. */
const KINDS: readonly ((name: string, a: string, b: string, w: string) => NodeProto[])[] = [
  (name, a, b) => [makeNode('Add', [a, b], [name])],
  (name, a) => [makeNode('Tanh', [a], [name])],
  (name, a, b) => [makeNode('Max', [a, b], [name])],
  (name, a, _b, w) => [makeNode('MatMul', [a, w], [name])],
  (name, a, _b, w) => [makeNode('MatMul', [a, `${w}/turned`], [name])],
  (name, a, _b, w) => [makeNode('Gemm', [a, `${w}/turned/again`, 'row'], [name])],
  (name, a, b) => [
    makeNode('Split', [a, 'halves'], [`${name}/1`, `${name}/2`], { attributes: { axis: 1 } }),
    makeNode('Split', [b, 'halves'], [`${name}/4`, `${name}/3`], { attributes: { axis: 1 } }),
    makeNode('Concat', [`${name}/3`, `${name}/1`], [name], { attributes: { axis: 1 } }),
  ],
  (name, a, b) => [
    makeNode('Greater', [a, b], [`${name}/larger`]),
    makeNode('Where', [`${name}/larger`, a, b], [name]),
  ],
  (name, a, b) => [makeNode('Shape', [a], [`${name}/shape`]), makeNode('Reshape', [b, `${name}/shape`], [name])],
  (name, a, b) => [
    makeNode('ReduceMax', [a], [`${name}/most`], { attributes: { keepdims: 0 } }),
    makeNode('ReduceMin', [b], [`${name}/least`], { attributes: { keepdims: 0 } }),
    makeNode('Less', [`${name}/most`, `${name}/least`], [`${name}/less`]),
    branch(`${name}/less`, name, a, b, 'row'),
  ],
  // Nobody reads what it makes.
  (name, a) => [makeNode('Relu', [a], [`${name}/unread`]), makeNode('Identity', [a], [name])],
]

/**
 * The network of some steps. Inputs x, z; outputs: the last value, and the first, which others may read too.
 * @param scale factor on each weight, by name.
 */
export function modelOfSteps(list: readonly Step[], scale: Readonly<Record<string, number>> = {}): ModelProto {
  const values = ['x', 'z']
  const nodes: NodeProto[] = []
  for (const [i, { kind, a, b, weight: w }] of list.entries()) {
    const name = `v${i}`
    const at = (place: number) => values[place % values.length]!
    nodes.push(...KINDS[kind % KINDS.length]!(name, at(a), at(b), WEIGHTS[w % WEIGHTS.length]!))
    values.push(name)
  }
  const turned = WEIGHTS.flatMap((w) => [
    makeNode('Transpose', [w], [`${w}/turned`]),
    makeNode('Transpose', [`${w}/turned`], [`${w}/turned/again`]),
  ])
  return smallModel({
    nodes: [...turned, ...nodes],
    weights: [
      ...WEIGHTS.map((w, i) =>
        weight(
          w,
          [WIDTH, WIDTH],
          draw([WIDTH, WIDTH], i).map((v) => 0.4 * v * (scale[w] ?? 1)),
        ),
      ),
      weight('row', [WIDTH], draw([WIDTH], 9)),
      makeTensor({ name: 'halves', dims: [2n], dataType: DataType.INT64, int64Data: [2n, 2n] }),
    ],
    inputs: { x: [undefined, WIDTH], z: [undefined, WIDTH] },
    outputs: [...new Set([values.at(-1)!, 'v0'])],
  })
}

/** The same model, its nodes in another order. */
export function inOrder(model: ModelProto, places: readonly number[]): ModelProto {
  const { node } = model.graph!
  return { ...model, graph: { ...model.graph!, node: places.map((place) => node[place]!) } }
}
