/** @file Raising the opset: onnxruntime computes the same bits before and after, or the plan names the node in the way. */
import { describe, expect, test } from 'vitest'
import { QtoolError } from '../../src/errors.ts'
import { type OpsetBlocker, planOpset, raiseOpset } from '../../src/onnx/opset.ts'
import { DataType, decodeModel, encodeModel, type ModelProto, makeNode } from '../../src/onnx/proto.ts'
import {
  type Case,
  caseModel,
  expectSame,
  fed,
  flags,
  hidden,
  image,
  indices,
  ints,
  modelOf,
  none,
  type Operand,
  op,
  positive,
  runModel,
  scalar,
} from './nodeModels.ts'

function raised(model: ModelProto, ...steps: number[]): ModelProto {
  const copy = decodeModel(encodeModel(model))
  for (const to of steps) raiseOpset(copy, to)
  return copy
}

/** Runs the case before and after, at each opset that other code asks for and at the newest. */
async function expectSurvives(c: Case): Promise<void> {
  const { model, feeds } = caseModel(c)
  const before = await runModel(model, feeds)
  for (const to of [18, 21, 26].filter((v) => v > c.opset && v <= (c.until ?? 26))) {
    expect(planOpset(model, to)).toEqual({ from: c.opset, to, blockers: [] })
    const after = raised(model, to)
    expect(after.opsetImport.map((o) => [o.domain, Number(o.version)])).toEqual([['', to]])
    expectSame(await runModel(after, feeds), before, c.tolerance ?? 0)
    const middle = c.opset + Math.ceil((to - c.opset) / 2)
    expect(encodeModel(raised(model, middle, to))).toEqual(encodeModel(after))
  }
}

const title = (c: Case) => `${c.operator} ${c.opset} ${JSON.stringify(c.attributes)}`
const REDUCTIONS = 'L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare'.split(' ')
const flat = (operator: string) => op(operator, 7, [image])
const rnn = (operator: string, gates: number, extra: (Operand | null)[] = []) =>
  op(
    operator,
    7,
    [fed(3, 2, 5), fed(1, gates * 4, 5), fed(1, gates * 4, 4), fed(1, gates * 8), ...extra],
    { hidden_size: 4 },
    { outputs: 2 },
  )

const REWRITTEN: Case[] = [
  op('Squeeze', 7, [fed(1, 3, 1, 2)], { axes: [0, 2] }),
  op('Squeeze', 11, [fed(1, 3, 1, 2)], { axes: [-2] }),
  op('Squeeze', 11, [fed(1, 3, 1, 2)]),
  op('Unsqueeze', 7, [fed(3, 2)], { axes: [0, 3] }),
  op('Unsqueeze', 12, [fed(3, 2)], { axes: [-1] }),
  op('ReduceSum', 11, [image], { axes: [1, -1], keepdims: 0 }),
  op('ReduceSum', 7, [image]),
  ...REDUCTIONS.map((name) => op(`Reduce${name}`, 8, [positive(2, 3, 4)], { axes: [1], keepdims: 0 })),
  ...REDUCTIONS.map((name) => op(`Reduce${name}`, 13, [positive(2, 3, 4)], { axes: [-1, 0] })),
  op('ReduceMean', 13, [image], { keepdims: 0 }),
  op('Split', 7, [fed(6, 4)], { split: [1, 2, 3] }, { outputs: 3 }),
  op('Split', 11, [fed(6, 4)], { axis: -1 }, { outputs: 2 }),
  op('Split', 13, [fed(6, 4), ints(2, 4)], {}, { outputs: 2 }),
  op('Split', 13, [fed(6, 4)], {}, { outputs: 3 }),
  op('Clip', 7, [image], { min: { float: -0.3 }, max: { float: 0.4 } }),
  op('Clip', 9, [image], { min: { float: -0.3 } }),
  op('Clip', 10, [hidden(3, 5)], { max: { float: 0.1 } }),
  op('Clip', 6 + 1, [image]),
  op('Dropout', 7, [image], { ratio: { float: 0.4 } }, { unread: 1 }),
  op('Dropout', 10, [image], { ratio: { float: 0.4 } }),
  op('Softmax', 7, [fed(3, 5)]),
  op('Softmax', 11, [hidden(3, 4, 5)], { axis: -1 }),
  ...['Softmax', 'LogSoftmax', 'Hardmax'].map((name) => op(name, 9, [fed(3, 4, 5)], { axis: 2 })),
  op('Slice', 7, [image], { axes: [1, 3], starts: [1, -4], ends: [3, 2147483647] }),
  op('Slice', 9, [image], { starts: [0, 1], ends: [1, -1] }),
  op('Pad', 7, [image], { pads: [0, 0, 1, 2, 0, 0, 1, 0], value: { float: 1.5 } }),
  op('Pad', 9, [image], { pads: [0, 0, 1, 2, 0, 0, 1, 0] }),
  op('Pad', 9, [image], { pads: [0, 0, 1, 2, 0, 0, -1, 0], mode: 'edge', value: { float: 2 } }),
  op('Pad', 9, [image], { pads: [0, 0, 1, 2, 0, 0, 1, 0], mode: 'reflect' }),
  op('TopK', 7, [fed(3, 7)], { k: 3 }, { outputs: 2 }),
  op('TopK', 9, [fed(7, 3)], { k: 2, axis: 0 }, { outputs: 2 }),
  op(
    'Scatter',
    9,
    [fed(3, 3), ints(1, 0, 2), fed(3)].map((o, i) => (i ? { ...o, dims: [1, 3] } : o)),
    { axis: 0 },
  ),
  op('BatchNormalization', 7, [image, fed(4), fed(4), fed(4), positive(4)], { spatial: 1, momentum: { float: 0.8 } }),
  op(
    'Resize',
    11,
    [image, { dims: [0], type: 'float32', values: [] }, { dims: [0], type: 'float32', values: [] }, ints(2, 4, 9, 7)],
    { mode: 'linear' },
  ),
  op(
    'Resize',
    11,
    [image, { dims: [0], type: 'float32', values: [] }, { dims: [4], type: 'float32', values: [1, 1, 2, 1.5] }],
    { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' },
  ),
  op(
    'Resize',
    12,
    [image, { dims: [0], type: 'float32', values: [] }, { dims: [4], type: 'float32', values: [1, 1, 2, 0.5] }],
    { mode: 'cubic', coordinate_transformation_mode: 'align_corners' },
  ),
  op('GridSample', 16, [image, { ...fed(2, 5, 5, 2), draw: (r) => r.uniform() * 2 - 1 }]),
  op('GridSample', 16, [image, { ...fed(2, 5, 5, 2), draw: (r) => r.uniform() * 2 - 1 }], {
    mode: 'bicubic',
    padding_mode: 'border',
  }),
  op('GridSample', 16, [image, { ...fed(2, 5, 5, 2), draw: (r) => r.uniform() * 2 - 1 }], { mode: 'nearest' }),
  op(
    'RoiAlign',
    10,
    [image, { ...fed(2, 4), values: [0, 0, 4, 4, 1, 2, 5, 6] }, ints(0, 1)],
    { output_height: 3, output_width: 2, sampling_ratio: 2 },
    { until: 21 },
  ),
  op('DFT', 17, [fed(2, 8, 1)], { onesided: 1 }),
  op('DFT', 17, [fed(2, 5, 8, 2)], { axis: 2 }),
]

const UNTOUCHED: Case[] = [
  ...'Relu Sigmoid Tanh Elu Selu LeakyRelu HardSigmoid Softplus Softsign Exp Neg Abs Floor Ceil Identity Sin Cos Atan'
    .split(' ')
    .map(flat),
  ...'GlobalAveragePool GlobalMaxPool LpNormalization Shape Size Flatten Transpose ArgMax ArgMin'.split(' ').map(flat),
  ...['Log', 'Sqrt', 'Reciprocal'].map((name) => op(name, 7, [positive(3, 5)])),
  ...['Sinh', 'Erf', 'Sign', 'IsNaN', 'NonZero', 'Shrink', 'MeanVarianceNormalization'].map((name) =>
    op(name, 9, [image]),
  ),
  ...['Add', 'Sub', 'Mul', 'Div', 'Pow', 'Less', 'Greater', 'PRelu'].map((name) =>
    op(name, 7, [positive(2, 3, 4), positive(3, 1)]),
  ),
  ...['Sum', 'Max', 'Min', 'Mean'].map((name) => op(name, 7, [fed(3, 4), fed(3, 4), fed(3, 4)])),
  ...['And', 'Or', 'Xor', 'Equal'].map((name) => op(name, 7, [flags(3, 4), flags(4)])),
  op('Not', 7, [flags(5)]),
  op('Pow', 7, [fed(4, 4), scalar(2)]),
  op('Equal', 7, [indices(3, 4, 4), indices(3, 4)]),
  op('Conv', 7, [image, fed(6, 2, 3, 3), fed(6)], { group: 2, pads: [1, 1, 1, 1], strides: [2, 1] }),
  op('Conv', 9, [image, fed(6, 4, 3, 3)], { auto_pad: 'SAME_UPPER', strides: [2, 2] }),
  op('ConvTranspose', 7, [image, fed(4, 3, 2, 2)], { strides: [2, 2], pads: [1, 0, 0, 1] }),
  op('Gemm', 7, [fed(3, 5), fed(4, 5), fed(4)], { transB: 1, alpha: { float: 0.5 } }),
  op('MatMul', 7, [fed(2, 3, 5), fed(5, 4)]),
  op('BatchNormalization', 9, [image, fed(4), fed(4), fed(4), positive(4)]),
  op('InstanceNormalization', 7, [image, fed(4), fed(4)]),
  op('LRN', 7, [image], { size: 3 }),
  op('MaxPool', 8, [image], { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] }, { outputs: 2 }),
  op('MaxPool', 7, [image], { kernel_shape: [2, 2], auto_pad: 'SAME_LOWER' }),
  // Another kernel of onnxruntime takes over at 19 and adds in another order.
  op('AveragePool', 7, [image], { kernel_shape: [3, 2], strides: [3, 2] }, { tolerance: 1e-6 }),
  op(
    'AveragePool',
    10,
    [image],
    { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 },
    { tolerance: 1e-6 },
  ),
  ...['AveragePool', 'MaxPool'].map((name) =>
    op(name, 10, [image], { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 }, { tolerance: 1e-6, until: 21 }),
  ),
  op('GlobalLpPool', 7, [image], {}, { until: 21 }),
  op('LpPool', 7, [image], { kernel_shape: [2, 2] }, { tolerance: 1e-6 }),
  op('Concat', 7, [fed(2, 3), fed(2, 4)], { axis: 1 }),
  op('Reshape', 7, [image, ints(0, -1, 12)]),
  op('Cast', 7, [image], { to: DataType.INT32 }),
  op('Cast', 9, [flags(4)], { to: DataType.FLOAT }),
  op('Gather', 7, [fed(5, 4), indices(5, 2, 3)]),
  op('Expand', 8, [fed(3, 1), ints(2, 3, 4)]),
  op('Tile', 7, [fed(2, 3), ints(2, 1)]),
  op('Where', 9, [flags(3, 4), fed(3, 4), fed(4)]),
  op('ConstantOfShape', 9, [ints(2, 3)]),
  op('EyeLike', 9, [fed(3, 4)], { k: 1 }),
  op('Compress', 9, [fed(4, 3), flags(4)], { axis: 0 }),
  op('DepthToSpace', 7, [image], { blocksize: 2 }),
  op('SpaceToDepth', 7, [image], { blocksize: 2 }),
  op('Mod', 10, [indices(9, 6), ints(2, 3, 4, 5, 6, 7)]),
  op('QuantizeLinear', 10, [image, scalar(0.05), scalar(7, 'uint8')]),
  op('DequantizeLinear', 10, [
    { dims: [9], type: 'uint8', draw: (r) => r.below(256) },
    scalar(0.05),
    scalar(7, 'uint8'),
  ]),
  op('ThresholdedRelu', 10, [image], { alpha: { float: 0.3 } }),
  op('CumSum', 11, [fed(3, 4), scalar(1, 'int64')]),
  op('Round', 11, [image]),
  op('GatherElements', 11, [fed(3, 4), indices(3, 2, 4)]),
  op('GatherND', 11, [fed(3, 4), indices(3, 2, 2)]),
  op('ScatterND', 11, [fed(4, 3), { ...ints(2, 0), dims: [2, 1] }, fed(2, 3)]),
  op('Clip', 11, [image, scalar(-0.2), none]),
  op('Pad', 11, [image, ints(0, 0, 1, 1, 0, 0, 1, 1)], { mode: 'reflect' }),
  op('Slice', 10, [image, ints(1), ints(3), ints(2)]),
  op('Einsum', 12, [fed(2, 3), fed(3, 4)], { equation: 'ij,jk->ik' }),
  op('HardSwish', 14, [image]),
  op('LayerNormalization', 17, [fed(3, 5), fed(5), fed(5)]),
  rnn('LSTM', 4),
  rnn('GRU', 3),
  rnn('RNN', 1),
  op(
    'LSTM',
    7,
    [fed(3, 2, 5), fed(2, 16, 5), fed(2, 16, 4), none, none, fed(2, 2, 4), fed(2, 2, 4)],
    { hidden_size: 4, direction: 'bidirectional' },
    { outputs: 3 },
  ),
]

describe('raised models compute the same', () => {
  test.each(REWRITTEN.map((c) => [title(c), c] as const))('rewritten: %s', async (_, c) => expectSurvives(c))
  test.each(UNTOUCHED.map((c) => [title(c), c] as const))('untouched: %s', async (_, c) => {
    await expectSurvives(c)
    const { model } = caseModel(c)
    expect(raised(model, 21).graph).toEqual(raised(model).graph)
  })
})

test('what the runtime would also take in its old form is rewritten', () => {
  const nodeAt = (c: Case, to: number) => raised(caseModel(c).model, to).graph!.node[0]!
  const empty: Operand = { dims: [0], type: 'float32', values: [] }
  expect(nodeAt(op('Resize', 11, [image, empty, empty, ints(2, 4, 9, 7)]), 13).input).toEqual(['a', 'b', '', 'd'])
  const dropout = nodeAt(op('Dropout', 9, [image], { ratio: { float: 0.4 } }, { unread: 1 }), 12)
  expect([dropout.input, dropout.output, dropout.attribute]).toEqual([['a'], ['y0'], []])
})

describe('what stands in the way', () => {
  const blockersOf = (c: Case, to: number) => planOpset(caseModel(c).model, to).blockers
  const f16 = (c: Case) => {
    const { model } = caseModel(c)
    const value = model.graph!.input[0]!.type!.value
    if (value.case === 'tensorType') value.value.elemType = DataType.FLOAT16
    return planOpset(model, 21).blockers
  }
  const cases: [string, OpsetBlocker['version'], readonly OpsetBlocker[]][] = [
    ['Softmax, default axis, no rank', 13, blockersOf(op('Softmax', 9, [hidden(3, 5)]), 13)],
    ['Softmax over several dimensions', 13, blockersOf(op('Softmax', 11, [image]), 21)],
    ['LogSoftmax over several dimensions', 13, blockersOf(op('LogSoftmax', 9, [fed(2, 3, 4)], { axis: 1 }), 18)],
    ['Upsample', 10, blockersOf(op('Upsample', 9, [image, ints(1)]), 11)],
    ['Resize', 11, blockersOf(op('Resize', 10, [image, ints(1)]), 11)],
    [
      'Resize',
      13,
      blockersOf(op('Resize', 11, [image], { coordinate_transformation_mode: 'tf_half_pixel_for_nn' }), 21),
    ],
    ['Dropout with its mask read', 10, blockersOf(op('Dropout', 7, [image], {}, { outputs: 2 }), 11)],
    ['BatchNormalization per activation', 9, blockersOf(op('BatchNormalization', 7, [image], { spatial: 0 }), 11)],
    ['BatchNormalization in training', 14, blockersOf(op('BatchNormalization', 9, [image], {}, { outputs: 3 }), 21)],
    ['ConvTranspose', 11, blockersOf(op('ConvTranspose', 9, [image], { output_shape: [9, 9] }), 21)],
    ['ConvTranspose', 11, blockersOf(op('ConvTranspose', 9, [image], { auto_pad: 'SAME_LOWER' }), 21)],
    ['OneHot', 11, blockersOf(op('OneHot', 9, [image]), 18)],
    ['Scan', 9, blockersOf(op('Scan', 8, [image]), 18)],
    ['GroupNormalization', 21, blockersOf(op('GroupNormalization', 18, [image]), 21)],
    ['AveragePool', 22, blockersOf(op('AveragePool', 11, [image], { kernel_shape: [2, 2], ceil_mode: 1 }), 25)],
    ['MaxPool', 22, blockersOf(op('MaxPool', 10, [image], { kernel_shape: [2, 2], ceil_mode: 1 }), 25)],
    ['Clip of another type', 11, f16(op('Clip', 9, [image], { min: { float: 0 } }))],
    ['Pad of another type', 11, f16(op('Pad', 9, [image], { pads: [0, 0, 1, 1, 0, 0, 1, 1], value: { float: 1 } }))],
    ['RoiAlign, which the runtime lacks', 22, blockersOf(op('RoiAlign', 16, [image]), 25)],
    ['an operator nobody knows', 10, blockersOf(op('Affine', 9, [image]), 11)],
    ['opsets before 7', 7, blockersOf(op('Relu', 6, [image]), 11)],
  ]
  test.each(cases)('%s (%i)', (_, version, blockers) => {
    expect(blockers).toHaveLength(1)
    expect(blockers[0]).toMatchObject({ version, node: 'node' })
    expect(blockers[0]!.reason).not.toBe('')
  })

  test('a change that lies outside the interval does not', () => {
    expect(blockersOf(op('Resize', 10, [image, ints(1)]), 10)).toEqual([])
    expect(blockersOf(op('Softmax', 9, [hidden(3, 5)]), 12)).toEqual([])
    expect(blockersOf(op('Softmax', 13, [hidden(3, 5)]), 26)).toEqual([])
    expect(blockersOf(op('MaxPool', 12, [image], { kernel_shape: [2, 2], ceil_mode: 1 }), 21)).toEqual([])
  })

  test('one more type somewhere in the model leaves an undeclared Clip unproved', () => {
    const nodes = [
      makeNode('Relu', ['a'], ['r']),
      makeNode('Clip', ['r'], ['y'], { attributes: { max: { float: 1 } } }),
    ]
    const cast = makeNode('Cast', ['a'], ['z'], { attributes: { to: DataType.DOUBLE } })
    const foreign = makeNode('Gelu', ['a'], ['z'], { domain: 'com.microsoft' })
    expect(planOpset(modelOf(9, [image], nodes, ['y']).model, 21).blockers).toEqual([])
    for (const other of [cast, foreign]) {
      expect(planOpset(modelOf(9, [image], [other, ...nodes], ['y']).model, 21).blockers).toHaveLength(1)
    }
    const { model } = modelOf(9, [image, scalar(0)], nodes, ['y'])
    model.graph!.initializer[0]!.dataType = DataType.FLOAT16
    expect(planOpset(model, 21).blockers).toHaveLength(1)
    const wide = modelOf(9, [image, fed(1)], nodes, ['y']).model
    const type = wide.graph!.input[1]!.type!.value
    if (type.case === 'tensorType') type.value.elemType = DataType.DOUBLE
    expect(planOpset(wide, 21).blockers).toHaveLength(1)
  })

  test('raising refuses, and planning and refusing leave the model as it was', () => {
    const { model } = caseModel(op('Upsample', 9, [image, ints(1)]))
    const bytes = encodeModel(model)
    expect(() => raiseOpset(model, 21)).toThrow(QtoolError)
    expect(() => raiseOpset(model, 21)).toThrow(/Upsample/)
    expect(encodeModel(model)).toEqual(bytes)
    const squeeze = caseModel(op('Squeeze', 11, [fed(1, 3)], { axes: [0] })).model
    const before = encodeModel(squeeze)
    planOpset(squeeze, 21)
    expect(encodeModel(squeeze)).toEqual(before)
  })

  test('opsets that nobody has compared are a usage error', () => {
    expect(() => planOpset(caseModel(flat('Relu')).model, 27)).toThrow(QtoolError)
  })
})
