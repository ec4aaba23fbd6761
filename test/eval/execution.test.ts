import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { describe, expect, it, vi } from 'vitest'
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { describeExecution } from '../../src/eval/execution.ts'
import { countFusedProducts, slowProductWarnings } from '../../src/eval/products.ts'
import { parseProfile, profileRun } from '../../src/eval/profile.ts'
import { type ModelProto, makeModel, makeOpset, type NodeProto, type TensorProto } from '../../src/onnx/proto.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import {
  branching,
  buildModel,
  codes,
  constant,
  DataType,
  floatWeight,
  type GraphParts,
  makeNode,
  matMulNBits,
  normalTensor,
  scale,
  tensor,
  valueInfo,
  writeModel,
} from './models.ts'

const directory = useTempDir()
let models = 0

/** What the runtime did with each quantized node, by name. */
async function execution(model: ModelProto, feeds: Readonly<Record<string, FeedTensor>>) {
  const file = writeModel(directory, `m${models++}.onnx`, model)
  const executed = await profileRun(file, new Map(Object.entries(feeds)), 1)
  const entries = describeExecution(model, executed)
  const byName = Object.fromEntries(entries.map((e) => [e.node, `${e.operator}: ${e.status}`]))
  expect(Object.keys(byName)).toHaveLength(entries.length)
  return { byName, fused: countFusedProducts(model, executed) }
}

const K = 64
const N = 32
const x = normalTensor([2, K], 1)
const image = normalTensor([1, 16, 8, 8], 2)

const xIn = valueInfo('x', ['n', K])
const out = (name: string) => valueInfo(name, ['n', N])

/** DequantizeLinear → MatMul, which fuses: the weight and the scale have no other reader. */
function dequantizedProduct(name: string, named = true): Pick<GraphParts, 'initializers' | 'nodes'> {
  const as = (suffix: string) => (named ? { name: `${name}.${suffix}` } : {})
  return {
    initializers: [codes(`${name}.W`, [K, N], DataType.INT8, 1), scale(`${name}.s`)],
    nodes: [
      makeNode('DequantizeLinear', [`${name}.W`, `${name}.s`], [`${name}.w`], as('dq')),
      makeNode('MatMul', ['x', `${name}.w`], [`${name}.y`], as('mm')),
    ],
  }
}

function oneProduct(): ModelProto {
  const { node, initializers } = matMulNBits('nb', 'x', 'y', K, N)
  return buildModel({ inputs: [xIn], outputs: [out('y')], initializers, nodes: [node] })
}

describe('describeExecution on what onnxruntime ran', () => {
  it('tells fused, folded and repeated decoding apart', async () => {
    const product = matMulNBits('nb', 'x', 'nb.h', K, N)
    const fused = dequantizedProduct('fused')
    const model = buildModel({
      inputs: [xIn, valueInfo('image', [1, 16, 8, 8])],
      outputs: [
        out('nb.y'),
        out('fused.y'),
        out('gemm.y'),
        valueInfo('conv.y', [1, 8, 6, 6]),
        valueInfo('cast.y', [1, 8, 6, 6]),
      ],
      initializers: [
        ...product.initializers,
        floatWeight('bias', [N], 3),
        ...fused.initializers!,
        codes('gemm.W', [K, N], DataType.UINT4, 2),
        scale('gemm.s'),
        codes('conv.W', [8, 16, 3, 3], DataType.INT8, 3),
        scale('conv.s'),
        codes('cast.W', [8, 16, 3, 3], DataType.INT8, 4),
        scale('cast.s'),
      ],
      nodes: [
        product.node,
        makeNode('Add', ['nb.h', 'bias'], ['nb.y'], { name: 'nb.add' }),
        ...fused.nodes,
        makeNode('DequantizeLinear', ['gemm.W', 'gemm.s'], ['gemm.w'], { name: 'gemm.dq' }),
        makeNode('Gemm', ['x', 'gemm.w'], ['gemm.y'], { name: 'gemm', attributes: { alpha: { float: 2 } } }),
        makeNode('DequantizeLinear', ['conv.W', 'conv.s'], ['conv.w'], { name: 'conv.dq' }),
        makeNode('Conv', ['image', 'conv.w'], ['conv.y'], { name: 'conv' }),
        makeNode('Cast', ['cast.W'], ['cast.f'], { name: 'qtool/cast.w/cast', attributes: { to: DataType.FLOAT } }),
        makeNode('Mul', ['cast.f', 'cast.s'], ['cast.w'], { name: 'qtool/cast.w/weight' }),
        makeNode('Conv', ['image', 'cast.w'], ['cast.h'], { name: 'cast' }),
        makeNode('Relu', ['cast.h'], ['cast.y'], { name: 'cast.relu' }),
      ],
    })
    const { byName, fused: made } = await execution(model, { x, image })
    expect(byName).toEqual({
      nb: 'MatMulNBits: low-bit kernel',
      'fused.dq': 'DequantizeLinear: low-bit kernel',
      'gemm.dq': 'DequantizeLinear: dequantized every run',
      'conv.dq': 'DequantizeLinear: dequantized every run',
      'cast.w': 'Conv: folded at load',
    })
    expect(made).toBe(1)
  })

  it('follows decode chains into kernels, and rows that are decoded as they are looked up', async () => {
    const product = matMulNBits('nb', 'x', 'nb.y', K, N)
    // The kernel's scales are stored as float16 and cast; the codes of `std` are shifted, then dequantized.
    product.node.input[2] = 'nb.cast'
    const model = buildModel({
      inputs: [xIn, valueInfo('ids', ['n'], DataType.INT64)],
      outputs: [out('nb.y'), out('std.y'), valueInfo('rows.y', ['n', 8]), valueInfo('gbq.y', ['n', 32])],
      initializers: [
        product.initializers[0]!,
        constant('nb.half', [N, K / 32], new Uint16Array((N * K) / 32).fill(0x2c00), DataType.FLOAT16),
        codes('std.W', [K, N], DataType.UINT8, 5),
        constant('one', [1, 1], Uint8Array.of(4), DataType.UINT8),
        scale('std.s'),
        codes('E', [10, 8], DataType.UINT8, 6),
        constant('E.half', [], Uint16Array.of(0x2c00), DataType.FLOAT16),
        codes('G', [10, 16], DataType.UINT8, 7),
        scale('G.s', [10, 1]),
      ],
      nodes: [
        makeNode('Cast', ['nb.half'], ['nb.cast'], { name: 'qtool/nb.w/scale', attributes: { to: DataType.FLOAT } }),
        product.node,
        makeNode('BitShift', ['std.W', 'one'], ['std.q'], {
          name: 'qtool/a/b/codes',
          attributes: { direction: 'RIGHT' },
        }),
        makeNode('DequantizeLinear', ['std.q', 'std.s'], ['std.w'], { name: 'qtool/a/b/weight' }),
        makeNode('MatMul', ['x', 'std.w'], ['std.y'], { name: 'std' }),
        makeNode('Cast', ['E.half'], ['E.s'], { name: 'qtool/E/scale', attributes: { to: DataType.FLOAT } }),
        makeNode('Gather', ['E', 'ids'], ['E.q'], { name: 'qtool/E/rows/plane0' }),
        makeNode('Cast', ['E.q'], ['E.f'], { name: 'qtool/E/rows/levels', attributes: { to: DataType.FLOAT } }),
        makeNode('Mul', ['E.f', 'E.s'], ['rows.y'], { name: 'qtool/E/rows/rows~2' }),
        makeNode('GatherBlockQuantized', ['G', 'ids', 'G.s'], ['gbq.y'], {
          name: 'gbq',
          domain: 'com.microsoft',
          attributes: { gather_axis: 0, quantize_axis: 1, block_size: 32, bits: 4 },
        }),
      ],
    })
    const ids = tensor('int64', [2], BigInt64Array.of(1n, 9n))
    const { byName } = await execution(model, { x, ids })
    expect(byName).toEqual({
      nb: 'MatMulNBits: low-bit kernel',
      'a/b': 'MatMul: low-bit kernel',
      E: 'Gather: rows decoded at run time',
      gbq: 'GatherBlockQuantized: low-bit kernel',
    })
  })

  it('reports a decode chain that was not folded', async () => {
    const model = buildModel({
      inputs: [xIn],
      outputs: [out('y')],
      initializers: [codes('W', [K, N], DataType.INT8, 1), scale('s')],
      nodes: [
        // A random value makes the chain dynamic.
        makeNode('RandomUniform', [], ['r'], { name: 'noise', attributes: { shape: [1] } }),
        makeNode('Cast', ['W'], ['f'], { name: 'qtool/w/cast', attributes: { to: DataType.FLOAT } }),
        makeNode('Mul', ['f', 'r'], ['w'], { name: 'qtool/w/weight' }),
        makeNode('MatMul', ['x', 'w'], ['y'], { name: 'mm' }),
      ],
    })
    expect((await execution(model, { x })).byName).toEqual({ w: 'MatMul: dequantized every run' })
  })

  it('recognises int8 products and convolutions, and passes over activations and biases', async () => {
    const dequantize = (name: string, inputs: string[]) => makeNode('DequantizeLinear', inputs, [`${name}.r`], { name })
    const model = buildModel({
      inputs: [xIn, valueInfo('image', [1, 16, 8, 8])],
      outputs: [out('mmi.y'), valueInfo('conv.y', [1, 8, 6, 6])],
      initializers: [
        codes('mmi.W', [K, N], DataType.INT8, 1),
        scale('mmi.s'),
        codes('conv.W', [8, 16, 3, 3], DataType.INT8, 3),
        scale('conv.s', [], 1 / 64),
        scale('a.s', [], 1 / 16),
        constant('a.z', [], Uint8Array.of(128), DataType.UINT8),
        constant('conv.b', [8], new Int32Array(8), DataType.INT32),
        scale('b.s', [], 1 / 1024),
      ],
      nodes: [
        makeNode('DynamicQuantizeLinear', ['x'], ['xq', 'xs', 'xz'], { name: 'dynamic' }),
        makeNode('MatMulInteger', ['xq', 'mmi.W', 'xz'], ['mmi.i'], { name: 'mmi' }),
        makeNode('Cast', ['mmi.i'], ['mmi.f'], { name: 'mmi.cast', attributes: { to: DataType.FLOAT } }),
        makeNode('Mul', ['xs', 'mmi.s'], ['mmi.ss'], { name: 'mmi.scale' }),
        makeNode('Mul', ['mmi.f', 'mmi.ss'], ['mmi.y'], { name: 'mmi.mul' }),
        makeNode('QuantizeLinear', ['image', 'a.s', 'a.z'], ['image.q'], { name: 'q' }),
        dequantize('activation', ['image.q', 'a.s', 'a.z']),
        dequantize('weight', ['conv.W', 'conv.s']),
        dequantize('bias', ['conv.b', 'b.s']),
        makeNode('Conv', ['activation.r', 'weight.r', 'bias.r'], ['conv.h'], { name: 'conv' }),
        makeNode('QuantizeLinear', ['conv.h', 'a.s', 'a.z'], ['conv.q'], { name: 'q2' }),
        makeNode('DequantizeLinear', ['conv.q', 'a.s', 'a.z'], ['conv.y'], { name: 'end' }),
      ],
    })
    expect((await execution(model, { x, image })).byName).toEqual({
      mmi: 'MatMulInteger: low-bit kernel',
      weight: 'DequantizeLinear: low-bit kernel',
    })
  })

  it('says which branch was not executed', async () => {
    const then = matMulNBits('then.nb', 'x', 'then.y', K, N)
    const other = dequantizedProduct('else')
    const thenGraph = buildModel({
      inputs: [],
      outputs: [out('then.y')],
      initializers: then.initializers,
      nodes: [then.node],
    })
    const elseGraph = buildModel({ inputs: [], outputs: [out('else.y')], ...other })
    const model = buildModel({
      inputs: [xIn, valueInfo('condition', [], DataType.BOOL)],
      outputs: [out('y')],
      nodes: [branching('condition', 'y', thenGraph, elseGraph)],
    })
    const taken = (value: number) => execution(model, { x, condition: tensor('bool', [], Uint8Array.of(value)) })
    expect((await taken(1)).byName).toEqual({
      'then.nb': 'MatMulNBits: low-bit kernel',
      'else.dq': 'DequantizeLinear: not executed',
    })
    expect((await taken(0)).byName).toEqual({
      'then.nb': 'MatMulNBits: not executed',
      'else.dq': 'DequantizeLinear: low-bit kernel',
    })
  })

  it('finds the nodes of local functions after inlining', async () => {
    const weight = (name: string, tensor: TensorProto) =>
      makeNode('Constant', [], [name], { attributes: { value: tensor } })
    const model = buildModel({
      inputs: [xIn],
      outputs: [out('y')],
      nodes: [makeNode('Linear', ['x'], ['y'], { name: 'call', domain: 'local' })],
    })
    const [body] = makeModel({
      functions: [
        {
          name: 'Linear',
          domain: 'local',
          input: ['a'],
          output: ['b'],
          opsetImport: [makeOpset('', 21)],
          node: [
            weight('W', codes('', [K, N], DataType.INT8, 1)),
            weight('s', scale('')),
            makeNode('DequantizeLinear', ['W', 's'], ['w'], { name: 'dq' }),
            makeNode('Gemm', ['a', 'w'], ['b'], { name: 'gemm', attributes: { alpha: { float: 2 } } }),
          ],
        },
      ],
    }).functions
    model.functions.push(body!)
    model.opsetImport.push(makeOpset('local', 1))
    expect((await execution(model, { x })).byName).toEqual({ dq: 'DequantizeLinear: dequantized every run' })
  })

  it('finds nodes without names, and with names that break the profile as JSON', async () => {
    const product = matMulNBits('"quoted" \\ é\n', 'x', 'nb.y', K, N)
    const fused = dequantizedProduct('fused', false)
    const model = buildModel({
      inputs: [xIn],
      outputs: [out('nb.y'), out('fused.y'), out('gemm.y')],
      initializers: [...product.initializers, ...fused.initializers!, scale('gemm.s')],
      nodes: [
        makeNode('Constant', [], ['gemm.W'], { attributes: { value: codes('', [K, N], DataType.UINT4, 2) } }),
        product.node,
        makeNode('DequantizeLinear', ['gemm.W', 'gemm.s'], ['gemm.w']),
        makeNode('Gemm', ['x', 'gemm.w'], ['gemm.y'], { attributes: { alpha: { float: 2 } } }),
        ...fused.nodes,
      ],
    })
    const { byName, fused: made } = await execution(model, { x })
    expect(byName).toEqual({
      '"quoted" \\ é\n': 'MatMulNBits: low-bit kernel',
      'gemm.w': 'DequantizeLinear: dequantized every run',
      'fused.w': 'DequantizeLinear: low-bit kernel',
    })
    expect(made).toBe(1)
  })

  it('leaves nothing in the temporary directory, even when the run fails', async () => {
    const temporary = fs.mkdtempSync(path.join(directory, 'tmp-'))
    for (const name of ['TMPDIR', 'TEMP', 'TMP']) vi.stubEnv(name, temporary)
    try {
      expect(os.tmpdir()).toBe(temporary)
      const file = writeModel(directory, 'nb.onnx', oneProduct())
      expect(await profileRun(file, new Map([['x', x]]), 1)).toHaveLength(1)
      await expect(profileRun(file, new Map(), 1)).rejects.toThrow(/input x/)
      expect(fs.readdirSync(temporary)).toEqual([])
    } finally {
      vi.unstubAllEnvs()
    }
  })
})

it('parseProfile takes nodes and nothing else', () => {
  const event = (cat: string, name: string, args: string) =>
    `{"cat" : "${cat}","pid" :1,"tid" :1,"dur" :1,"ts" :1,"ph" : "X","name" :"${name}","args" : {${args}}},\n`
  const text = `[\n${event('Session', 'model_run', '')}${event('Node', 'a_kernel_time', '"op_name" : "Conv"')}${event('Node', '_kernel_time', '"x" : "y","op_name" : "Add"')}]\n`
  expect(parseProfile(text)).toEqual([
    { name: 'a', operator: 'Conv' },
    { name: '', operator: 'Add' },
  ])
})

describe('slowProductWarnings', () => {
  const warnings = (edit: (node: NodeProto) => void, options: Parameters<typeof matMulNBits>[5] = {}) => {
    const { node, initializers } = matMulNBits('nb', 'x', 'y', K, N, options)
    edit(node)
    const zeros = [floatWeight('zero.f', [N, 2], 1), codes('zero.u', [N, 1], DataType.UINT8, 1)]
    return slowProductWarnings(
      buildModel({ inputs: [xIn], outputs: [out('y')], initializers: [...initializers, ...zeros], nodes: [node] }),
    ).join()
  }
  const nothing = () => {}

  it.each<[string, (node: NodeProto) => void, Parameters<typeof matMulNBits>[5], RegExp]>([
    ['4 bits', nothing, { accuracyLevel: 0 }, /^$/],
    ['8 bits with int8 activations', nothing, { bits: 8 }, /^$/],
    ['8 bits with float activations', nothing, { bits: 8, accuracyLevel: 0 }, /1 MatMulNBits node .*8-bit.*\(nb\)/],
    ['2 bits with float activations', nothing, { bits: 2, accuracyLevel: 0 }, /2-bit weights need accuracy_level 4/],
    ['packed zero points', (node) => node.input.push('zero.u'), {}, /^$/],
    ['float zero points', (node) => node.input.push('zero.f'), {}, /zero points are floating-point/],
    ['g_idx', (node) => node.input.push('', 'g'), {}, /g_idx/],
  ])('%s', (_, edit, options, pattern) => {
    expect(warnings(edit, options)).toMatch(pattern)
  })
})
