/** @file Small models from one line each: operands by shape and kind, seeded values, and a run in onnxruntime. */
import * as ort from 'onnxruntime-node'
import { expect } from 'vitest'
import {
  type AttributeValue,
  DataType,
  encodeModel,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  type NodeProto,
} from '../../src/onnx/proto.ts'
import { makeRandom, type Random } from '../../src/random.ts'

/** An operand of a test node: fed at run time, or an initializer. */
export interface Operand {
  readonly dims: readonly number[]
  readonly type: 'float32' | 'int64' | 'bool' | 'uint8' | 'int32'
  readonly values?: readonly number[]
  /** Values that a random draw stands for. */
  readonly draw?: (random: Random) => number
  /** The graph input says nothing about the shape. */
  readonly hidden?: boolean
}

const TYPES = {
  float32: DataType.FLOAT,
  int64: DataType.INT64,
  bool: DataType.BOOL,
  uint8: DataType.UINT8,
  int32: DataType.INT32,
}

export const fed = (...dims: number[]): Operand => ({ dims, type: 'float32', draw: (r) => r.normal() })
export const positive = (...dims: number[]): Operand => ({ dims, type: 'float32', draw: (r) => r.uniform() + 0.25 })
export const flags = (...dims: number[]): Operand => ({ dims, type: 'bool', draw: (r) => r.below(2) })
export const indices = (bound: number, ...dims: number[]): Operand => ({
  dims,
  type: 'int64',
  draw: (r) => r.below(bound),
})
export const ints = (...values: number[]): Operand => ({ dims: [values.length], type: 'int64', values })
export const scalar = (value: number, type: Operand['type'] = 'float32'): Operand => ({
  dims: [],
  type,
  values: [value],
})
export const hidden = (...dims: number[]): Operand => ({ ...fed(...dims), hidden: true })
export const none = null

export interface Case {
  readonly operator: string
  readonly opset: number
  readonly operands: readonly (Operand | null)[]
  readonly attributes: Readonly<Record<string, AttributeValue>>
  readonly outputs: number
  /** Outputs that the node names and nobody reads. */
  readonly unread?: number
  /** Fraction of the largest value of an output; 0 means the same bits. */
  readonly tolerance?: number
  /** The newest opset that the runtime has a kernel for, where that is not the newest of all. */
  readonly until?: number
}

export function op(
  operator: string,
  opset: number,
  operands: readonly (Operand | null)[],
  attributes: Readonly<Record<string, AttributeValue>> = {},
  rest: Partial<Case> = {},
): Case {
  return { operator, opset, operands, attributes, outputs: 1, ...rest }
}

export const image = fed(2, 4, 6, 6)
const graphOperand = (operand: Operand) => operand.values === undefined

export function draw(operand: Operand, random: Random): number[] {
  const size = operand.dims.reduce((a, b) => a * b, 1)
  return operand.values ? [...operand.values] : Array.from({ length: size }, () => Math.fround(operand.draw!(random)))
}

function tensorOf(name: string, operand: Operand, values: readonly number[]) {
  const shape = { name, dims: operand.dims.map(BigInt), dataType: TYPES[operand.type] }
  if (operand.type === 'float32') return makeTensor({ ...shape, floatData: [...values] })
  if (operand.type === 'int64') return makeTensor({ ...shape, int64Data: values.map(BigInt) })
  return makeTensor({ ...shape, int32Data: [...values] })
}

export function feedOf(operand: Operand, values: readonly number[]): ort.Tensor {
  const { type, dims } = operand
  if (type === 'float32') return new ort.Tensor(type, Float32Array.from(values), dims)
  if (type === 'int64') return new ort.Tensor(type, BigInt64Array.from(values.map(BigInt)), dims)
  if (type === 'int32') return new ort.Tensor(type, Int32Array.from(values), dims)
  return new ort.Tensor(type, Uint8Array.from(values), dims)
}

function inputOf(name: string, operand: Operand) {
  const dim = operand.dims.map((d) => ({ value: { case: 'dimValue' as const, value: BigInt(d) } }))
  const shape = operand.hidden ? {} : { shape: { dim } }
  return { name, type: { value: { case: 'tensorType' as const, value: { elemType: TYPES[operand.type], ...shape } } } }
}

/** A model of given nodes; its operands are named a, b, c … in their order. */
export function modelOf(
  opset: number,
  operands: readonly (Operand | null)[],
  nodes: NodeProto[],
  outputs: readonly string[],
) {
  const random = makeRandom(opset * 1000 + operands.length)
  const named = operands.flatMap((operand, i) =>
    operand ? [{ name: String.fromCharCode(97 + i), operand, values: draw(operand, random) }] : [],
  )
  const inputs = named.filter(({ operand }) => graphOperand(operand))
  const model = makeModel({
    irVersion: 4n,
    opsetImport: [makeOpset('', opset)],
    graph: {
      name: 'g',
      node: nodes,
      input: inputs.map(({ name, operand }) => inputOf(name, operand)),
      output: outputs.map((name) => ({ name })),
      initializer: named
        .filter(({ operand }) => !graphOperand(operand))
        .map((n) => tensorOf(n.name, n.operand, n.values)),
    },
  })
  const feeds = Object.fromEntries(inputs.map(({ name, operand, values }) => [name, feedOf(operand, values)]))
  return { model, feeds }
}

export function caseModel(c: Case) {
  const inputs = c.operands.map((operand, i) => (operand ? String.fromCharCode(97 + i) : ''))
  const outputs = Array.from({ length: c.outputs }, (_, i) => `y${i}`)
  const unread = Array.from({ length: c.unread ?? 0 }, (_, i) => `unread${i}`)
  const node = makeNode(c.operator, inputs, [...outputs, ...unread], { name: 'node', attributes: c.attributes })
  return modelOf(c.opset, c.operands, [node], outputs)
}

/** Runs with graph optimizations off, so that each node is computed as it stands; outputs in the order of the graph. */
export async function runModel(model: ModelProto, feeds: Record<string, ort.Tensor>): Promise<ort.Tensor[]> {
  const session = await ort.InferenceSession.create(encodeModel(model), {
    graphOptimizationLevel: 'disabled',
    logSeverityLevel: 3,
    intraOpNumThreads: 1,
  })
  const outputs = await session.run(feeds)
  const inOrder = session.outputNames.map((name) => outputs[name]!)
  await session.release()
  return inOrder
}

/** Equal types, shapes and values; `tolerance` is a fraction of a tensor's largest value, 0 means the same bits. */
export function expectSame(actual: ort.Tensor[], expected: ort.Tensor[], tolerance: number): void {
  expect(actual.map((t) => [t.type, t.dims])).toEqual(expected.map((t) => [t.type, t.dims]))
  for (const [k, tensor] of expected.entries()) {
    const wanted = tensor.data as Float32Array
    const got = actual[k]!.data as Float32Array
    const limit = tolerance * wanted.reduce((most, v) => Math.max(most, Math.abs(Number(v))), 0)
    for (let i = 0; i < wanted.length; i++) {
      if (Object.is(got[i], wanted[i])) continue
      if (!(Math.abs(got[i]! - wanted[i]!) <= limit))
        expect.fail(`output ${k}[${i}]: wanted ${wanted[i]}, found ${got[i]}`)
    }
  }
}
