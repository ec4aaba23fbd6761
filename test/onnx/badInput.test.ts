import fs from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { loadModel } from '../../src/onnx/load.ts'
import { encodeModel, type ModelProto, makeOpset, type TensorProto } from '../../src/onnx/proto.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { expectQtoolError } from '../helpers/qtoolErrors.ts'
import {
  branches,
  chain,
  constant,
  external,
  floats,
  makeNode,
  makeTensor,
  model,
  value,
} from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()
let count = 0

/** Write a model (and data files) into a new directory and load it; it must fail with an error that names the file. */
function refuse(
  bytes: Uint8Array | string | ModelProto,
  patterns: (RegExp | string)[],
  files: Readonly<Record<string, Uint8Array>> = {},
) {
  const directory = path.join(temp, `${count++}`)
  fs.mkdirSync(directory)
  for (const [name, content] of Object.entries(files)) fs.writeFileSync(path.join(directory, name), content)
  const file = path.join(directory, 'm.onnx')
  fs.writeFileSync(file, typeof bytes === 'object' && '$typeName' in bytes ? encodeModel(bytes) : bytes)
  const error = expectQtoolError('model', () => loadModel(file), file, ...patterns)
  expect(error.hint).toBeTruthy()
  // The same by range.
  expectQtoolError('model', () => loadModel(file, { wholeFileLimit: 0 }), ...patterns)
  return error
}

const withTensor = (tensor: Parameters<typeof makeTensor>[0]): ModelProto => {
  const proto = chain([floats('w', [32, 32])])
  proto.graph!.initializer.push(makeTensor(tensor))
  return proto
}

afterEach(() => {
  vi.restoreAllMocks()
})

describe('not a file to read', () => {
  test('missing, a directory, empty, not plain, no permission', () => {
    const missing = path.join(temp, 'missing.onnx')
    expectQtoolError('model', () => loadModel(missing), missing, 'no such file')
    fs.mkdirSync(path.join(temp, 'dir'))
    fs.writeFileSync(path.join(temp, 'dir', 'found.onnx'), '')
    const error = expectQtoolError('model', () => loadModel(path.join(temp, 'dir')), 'is a directory')
    expect(error.hint).toContain('found.onnx')
    expectQtoolError('model', () => loadModel(path.join(temp, 'dir', 'found.onnx')), 'is empty')
    if (process.platform !== 'win32') expectQtoolError('model', () => loadModel('/dev/null'), 'not a plain file')
    expectQtoolError('model', () => loadModel(path.join(npmModels.silero, 'x.onnx')), 'not a directory')
    // Root may read everything, so the refusal is simulated.
    vi.spyOn(fs, 'openSync').mockImplementation(() => {
      throw Object.assign(new Error('EACCES: permission denied, open'), { code: 'EACCES' })
    })
    expectQtoolError('model', () => loadModel(npmModels.silero), /^cannot read .*silero.*: permission denied$/)
  })
})

describe('another kind of file', () => {
  test.each<[string, string | Uint8Array, RegExp]>([
    ['npy', '\x93NUMPY\x01\0', /NumPy/],
    ['zip', 'PK\x03\x04rest', /zip archive/],
    ['gzip', '\x1f\x8b\x08', /gzip/],
    ['json', '{ "model_type": "llama" }', /JSON/],
    ['json list', '\n[1, 2]', /JSON/],
    ['html', '\n<!DOCTYPE html><html>', /web page/],
    ['lfs', 'version https://git-lfs.github.com/spec/v1\noid sha256:00', /Git LFS pointer/],
    ['safetensors', '\x10\0\0\0\0\0\0\0{"w":{"dtype":"F32"}}', /safetensors/],
    ['gguf', 'GGUF\x03\0\0\0', /GGUF/],
    ['pickle', '\x80\x02}q\0', /pickle/],
    ['hdf5', '\x89HDF\r\n\x1a\n', /HDF5/],
    ['tflite', '\x1c\0\0\0TFL3', /TensorFlow Lite/],
    ['ort', '\x1c\0\0\0ORTM', /onnxruntime's own/],
    ['xml', '<?xml version="1.0"?>', /XML/],
    ['zeros', new Uint8Array(5000), /not a valid ONNX model/],
    ['prose', 'hello, this is no model', /not a valid ONNX model/],
    ['protobuf of something else', Uint8Array.of(0x0a, 3, 97, 98, 99), /not a valid ONNX model/],
    ['no graph', Uint8Array.of(0x08, 8), /it has no graph/],
  ])('%s', (_, content, message) => {
    refuse(typeof content === 'string' ? Buffer.from(content, 'latin1') : content, [message])
  })
})

describe('cut short or corrupt', () => {
  test('every prefix of a model is refused', () => {
    const bytes = encodeModel(chain([floats('w', [32, 32]), floats('v', [32, 32])]))
    const file = path.join(temp, 'prefix.onnx')
    for (let length = 1; length < bytes.length; length += 97) {
      fs.writeFileSync(file, bytes.subarray(0, length))
      expectQtoolError('model', () => loadModel(file), file)
    }
  })

  test('a graph that claims 2^60 bytes', () => {
    const error = refuse(Uint8Array.of(0x08, 8, 0x3a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10), [
      /graph of 1152921504606847000 bytes/,
    ])
    expect(error.cause).toBeInstanceOf(Error)
  })

  test('deep nesting', () => {
    let proto = chain([floats('w', [32, 32])])
    for (let depth = 0; depth < 40; depth++) {
      const node = makeNode('If', ['x'], ['y'])
      node.attribute = model({ node: [{ attribute: [{ name: 'then_branch', type: 5, g: proto.graph! }] }] }).graph!
        .node[0]!.attribute
      proto = model({ node: [node] })
    }
    refuse(proto, [/nests deeper than 100/])
  })
})

describe('versions', () => {
  test.each([
    [{ irVersion: 14n }, /IR version 14; supported are 3 to 13/],
    [{ irVersion: 0n }, /IR version 0/],
    [{ irVersion: -3n }, /IR version -3/],
    [{ opsetImport: [makeOpset('', 6)] }, /opset 6 .*7 to 26/],
    [{ opsetImport: [makeOpset('', 27)] }, /opset 27 .*7 to 26/],
    [{ opsetImport: [makeOpset('com.microsoft', 1)] }, /no opset/],
    [{ functions: [{ name: 'f', opsetImport: [makeOpset('', 3)] }] }, /function 'f' uses opset 3/],
  ])('%#', (fields, message) => {
    refuse(model({ node: [] }, fields), [message])
  })
})

describe('tensors', () => {
  const raw = (bytes: number) => new Uint8Array(bytes)
  test.each<[string, Parameters<typeof makeTensor>[0], (RegExp | string)[]]>([
    [
      'too few bytes',
      { dims: [3n, 3n], dataType: 1, rawData: raw(32) },
      ['[3, 3]', 'float', 'wants 36 bytes, found 32'],
    ],
    ['too few bytes, large', { dims: [64n, 64n], dataType: 1, rawData: raw(9000) }, ['wants 16384 bytes, found 9000']],
    ['no bytes', { dims: [2n], dataType: 1 }, ['wants 8 bytes, found none']],
    ['a negative dimension', { dims: [-2n, -2n], dataType: 1, rawData: raw(16) }, ['negative dimension -2']],
    ['a product that overflows', { dims: [2n ** 32n, 2n ** 32n], dataType: 1 }, ['product is too large']],
    ['many huge dimensions', { dims: Array(50_000).fill(2n ** 62n), dataType: 1 }, ['product is too large']],
    ['an unknown type', { dims: [2n], dataType: 77, rawData: raw(2) }, ['type 77']],
    ['no type', { dims: [2n], rawData: raw(2) }, ['no element type']],
    ['too few floats', { dims: [2n], dataType: 1, floatData: [1] }, ['wants 2 numbers, found 1']],
    ['too many nibbles', { dims: [3n], dataType: 21, int32Data: [1, 2, 3] }, ['uint4', 'wants 2 numbers, found 3']],
    ['numbers of another type', { dims: [2n], dataType: 7, floatData: [1, 2] }, ['another type']],
    ['data twice', { dims: [2n], dataType: 1, floatData: [1, 2], rawData: raw(8) }, ['twice']],
    ['data twice, large', { dims: [1024n], dataType: 1, floatData: [1, 2], rawData: raw(4096) }, ['twice']],
    ['strings missing', { dims: [2n], dataType: 8, stringData: [raw(1)] }, ['wants 2 strings, found 1']],
    ['a segment', { dims: [2n], dataType: 1, rawData: raw(8), segment: { begin: 0n, end: 1n } }, ['segment']],
  ])('%s', (_, fields, patterns) => {
    refuse(withTensor({ name: 'bad', ...fields }), ["tensor 'bad'", ...patterns])
  })

  test('in an attribute, the node is named', () => {
    const proto = chain([floats('w', [32, 32])], { node: [constant('k', makeTensor({ dims: [9n], dataType: 1 }))] })
    refuse(proto, ["attribute 'value' of node 'make_k' (Constant)", 'wants 36 bytes'])
  })

  test('raw_data twice in one tensor', () => {
    const bytes = encodeModel(model({ initializer: [floats('w', [512])] }))
    const twice = encodeModel(
      model({
        initializer: [
          {
            ...floats('w', [512]),
            $unknown: [{ no: 9, wireType: 2, data: Uint8Array.from([0x80, 0x10, ...raw(2048)]) }],
          },
        ],
      }),
    )
    expect(twice.length).toBeGreaterThan(bytes.length + 2048)
    refuse(twice, ["tensor 'w' has raw_data twice"])
  })

  test('names cannot steer the terminal', () => {
    const error = refuse(withTensor({ name: `\u001b[31m\n\u202e${'x'.repeat(500)}`, dims: [1n], dataType: 1 }), [
      '\\u{1b}[31m\\u{a}\\u{202e}x',
    ])
    expect(error.message.length).toBeLessThan(temp.length + 300)
  })
})

describe('external data', () => {
  const one = (entries: Record<string, string>, more: TensorProto[] = []) =>
    chain([external('w', [32, 32], entries), ...more])
  const full = { 'w.bin': new Uint8Array(8192) }
  test.each<[string, Record<string, string>, (RegExp | string)[]]>([
    ['missing', { location: 'gone.bin' }, ['gone.bin', 'no such file']],
    ['no location', {}, ["''", 'empty']],
    ['parent', { location: '../../etc/passwd' }, ["'../../etc/passwd'", 'outside']],
    ['parent, by a detour', { location: 'a/../../w.bin' }, ['outside']],
    ['parent, Windows', { location: '..\\w.bin' }, ['outside']],
    ['absolute', { location: '/etc/passwd' }, ["'/etc/passwd'", 'absolute']],
    ['absolute, Windows', { location: 'C:\\w.bin' }, ['absolute']],
    ['NUL', { location: 'w.bin\0' }, ['NUL']],
    ['the directory', { location: '.' }, ['is a directory']],
    ['short', { location: 'w.bin', offset: '4097' }, ['bytes 4097 to 8193', 'which has 8192']],
    ['negative offset', { location: 'w.bin', offset: '-1' }, ['offset', "'-1'"]],
    ['offset in words', { location: 'w.bin', offset: 'two' }, ["'two'"]],
    ['offset with exponent', { location: 'w.bin', offset: '1e3' }, ["'1e3'"]],
    ['offset beyond 2^53', { location: 'w.bin', offset: '99999999999999999999' }, ['offset']],
    ['length', { location: 'w.bin', length: '4095' }, ['[32, 32] of float', '4096', 'length 4095']],
    ['length in words', { location: 'w.bin', length: '' }, ['length']],
  ])('%s', (_, entries, patterns) => {
    refuse(one(entries), ["tensor 'w'", ...patterns], full)
  })

  test('ranges that overlap in part; equal and adjacent ones do not', () => {
    const at = (name: string, offset: number) => external(name, [32, 32], { location: 'w.bin', offset: String(offset) })
    refuse(
      chain([at('a', 0), at('b', 4096), at('c', 4000)]),
      ["tensor 'a' and tensor 'c'", 'overlap', 'bytes 0 to 4096 and 4000 to 8096'],
      full,
    )
    refuse(chain([at('a', 0), at('b', 0), external('c', [32], { location: 'w.bin', offset: '64' })]), ['overlap'], full)
  })

  test('inline and external at once; strings', () => {
    const both = one({ location: 'w.bin' })
    both.graph!.initializer[0]!.rawData = new Uint8Array(4096)
    refuse(both, ["tensor 'w'", 'both inline and external'], full)
    const strings = one({ location: 'w.bin' })
    strings.graph!.initializer[0]!.dataType = 8
    refuse(strings, ["tensor 'w'", 'string'], full)
  })

  test('links that leave the directory, in any part of the path', () => {
    const directory = path.join(temp, 'links')
    fs.mkdirSync(path.join(directory, 'model'), { recursive: true })
    fs.writeFileSync(path.join(directory, 'secret'), new Uint8Array(8192))
    fs.symlinkSync('../secret', path.join(directory, 'model', 'w.bin'))
    fs.symlinkSync('..', path.join(directory, 'model', 'up'))
    for (const location of ['w.bin', 'up/secret']) {
      fs.writeFileSync(path.join(directory, 'model', 'm.onnx'), encodeModel(one({ location })))
      expectQtoolError(
        'model',
        () => loadModel(path.join(directory, 'model', 'm.onnx')),
        "tensor 'w'",
        /outside of the model/,
      )
    }
  })

  test('a file that may not be read', () => {
    vi.spyOn(fs, 'accessSync').mockImplementation(() => {
      throw Object.assign(new Error('EACCES'), { code: 'EACCES' })
    })
    refuse(one({ location: 'w.bin' }), ['w.bin', 'permission denied'], full)
  })
})

describe('graphs', () => {
  const io = { input: [value('x', [1, 32])], output: [value('y', [1, 32])] }
  test('a cycle, itself or through a subgraph', () => {
    const node = (inputs: string[], output: string) => makeNode('Add', inputs, [output], { name: `make ${output}` })
    refuse(model({ ...io, node: [node(['x', 'b'], 'a'), node(['a', 'x'], 'b'), node(['b', 'b'], 'y')] }), [
      /the graph has a cycle: node 'make (a|b)' \(Add\) → node 'make (a|b)' \(Add\) → node 'make (a|b)'/,
    ])
    refuse(model({ ...io, node: [node(['x', 'y'], 'y')] }), ["cycle: node 'make y' (Add) → node 'make y' (Add)"])
    const loop = branches(floats('w', [32, 32]), floats('', [32, 32]))
    loop.attribute[0]!.g!.node[0]!.input[0] = 'z'
    refuse(model({ ...io, input: [...io.input, value('c', [], 9)], node: [loop, makeNode('Neg', ['z'], ['y'])] }), [
      "cycle: node 'if' (If) → node 'if' (If)",
    ])
    const long = Array.from({ length: 50 }, (_, i) => node([`n${(i + 1) % 50}`, 'x'], `n${i}`))
    refuse(model({ ...io, node: [...long, node(['x', 'n3'], 'y')] }), ['(50 nodes)'])
  })

  test('a name that nothing makes', () => {
    refuse(model({ ...io, node: [makeNode('Neg', ['ghost'], ['y'], { name: 'n' })] }), [
      "node 'n' (Neg) reads 'ghost', which no node, input or initializer of the graph provides",
    ])
    refuse(model({ ...io, node: [] }), ["list of outputs of the graph reads 'y'"])
    const hidden = branches(floats('inner', [32, 32]), floats('', [32, 32]))
    const node = [hidden, makeNode('MatMul', ['x', 'inner'], ['y'])]
    refuse(model({ ...io, input: [...io.input, value('c', [], 9)], node }), ["node 'y' (MatMul) reads 'inner'"])
    const inBranch = branches(floats('w', [32, 32]), floats('', [32, 32]))
    inBranch.attribute[1]!.g!.node[1]!.input[0] = 'lost'
    refuse(model({ ...io, input: [...io.input, value('c', [], 9)], node: [inBranch, makeNode('Neg', ['x'], ['y'])] }), [
      "'lost'",
      "the graph in attribute 'else_branch' of node 'if' (If)",
    ])
    const functions = [
      { name: 'f', domain: 'own', input: ['p'], output: ['q'], node: [makeNode('Add', ['p', 'x'], ['q'])] },
    ]
    refuse(model({ ...io, node: [makeNode('Neg', ['x'], ['y'])] }, { functions }), ["reads 'x'", "function 'f'"])
  })

  test('a name that is made twice', () => {
    const neg = (name: string) => makeNode('Neg', ['x'], ['y'], { name })
    refuse(model({ ...io, node: [neg('n1'), neg('n2')] }), [
      "'y' is made twice in the graph: by node 'n1' (Neg) and node 'n2' (Neg)",
    ])
    refuse(model({ ...io, node: [makeNode('Neg', ['x'], ['x'])] }), ["'x' is made twice", 'an input or initializer'])
    refuse(model({ ...io, initializer: [floats('y', [1]), floats('y', [1])] }), ['two initializers'])
    refuse(model({ ...io, input: [...io.input, ...io.input], node: [neg('n')] }), ['two graph inputs'])
  })
})
