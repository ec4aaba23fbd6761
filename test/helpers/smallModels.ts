/** @file Small models for tests of the file layer, made with onnx-buf. */
import {
  encodeModel,
  type ModelProto,
  makeAttribute,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  type NodeProto,
  type TensorProto,
} from '../../src/onnx/proto.ts'

export const FLOAT = 1

type Fields = Exclude<Parameters<typeof makeModel>[0], ModelProto>

/** A value of a graph's signature. */
export function value(name: string, dims: readonly number[], elemType = FLOAT) {
  const dim = dims.map((size) => ({ value: { case: 'dimValue' as const, value: BigInt(size) } }))
  return { name, type: { value: { case: 'tensorType' as const, value: { elemType, shape: { dim } } } } }
}

/** A float tensor with raw data. */
export function floats(name: string, dims: readonly number[], at: (index: number) => number = (i) => (i % 64) / 8 - 4) {
  const count = dims.reduce((product, dim) => product * dim, 1)
  const rawData = new Uint8Array(Float32Array.from({ length: count }, (_, i) => at(i)).buffer)
  return makeTensor({ name, dims: dims.map(BigInt), dataType: FLOAT, rawData })
}

/** A tensor whose bytes lie in a data file. */
export function external(
  name: string,
  dims: readonly number[],
  entries: Readonly<Record<string, string>>,
): TensorProto {
  return makeTensor({
    name,
    dims: dims.map(BigInt),
    dataType: FLOAT,
    dataLocation: 1,
    externalData: Object.entries(entries).map(([key, text]) => ({ key, value: text })),
  })
}

export function model(
  graph: Omit<NonNullable<Fields['graph']>, '$typeName' | '$unknown'>,
  fields: Fields = {},
): ModelProto {
  return makeModel({ irVersion: 10n, opsetImport: [makeOpset('', 17)], graph: { name: 'g', ...graph }, ...fields })
}

/** y = x · w₀ · w₁ …, each w [32, 32] or as given. */
export function chain(initializer: TensorProto[], extra: { node?: NodeProto[] } = {}): ModelProto {
  const node = initializer.map((tensor, i) =>
    makeNode('MatMul', [i === 0 ? 'x' : `h${i}`, tensor.name], [i === initializer.length - 1 ? 'y' : `h${i + 1}`], {
      name: `mm${i}`,
    }),
  )
  return model({
    initializer,
    node: [...node, ...(extra.node ?? [])],
    input: [value('x', [1, 32])],
    output: [value('y', [1, 32])],
  })
}

/** `If` on c, whose branches multiply x with their own weights: an initializer and a Constant. Output z. */
export function branches(thenWeight: TensorProto, elseWeight: TensorProto): NodeProto {
  const node = makeNode('If', ['c'], ['z'], { name: 'if' })
  const branch = (name: string, graph: object) => ({ name, type: 5, g: { name, ...graph } })
  const thenBranch = branch('then_branch', {
    initializer: [thenWeight],
    node: [makeNode('MatMul', ['x', thenWeight.name], ['t'])],
    output: [value('t', [1, 32])],
  })
  const elseBranch = branch('else_branch', {
    node: [constant('e_w', elseWeight), makeNode('MatMul', ['x', 'e_w'], ['e'])],
    output: [value('e', [1, 32])],
  })
  node.attribute = makeModel({ graph: { node: [{ attribute: [thenBranch, elseBranch] }] } }).graph!.node[0]!.attribute
  return node
}

export function constant(output: string, tensor: TensorProto): NodeProto {
  const node = makeNode('Constant', [], [output], { name: `make_${output}` })
  node.attribute.push(makeAttribute('value', tensor))
  return node
}

export { encodeModel, makeNode, makeTensor }
