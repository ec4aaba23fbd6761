/**
 * The last check before a file gets its name: whatever in it does not compute what was decided must be found, for every
 * representation, and the layer be named.
 */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { QUANTIZE_DEFAULTS, type QuantizeConfig } from '../../src/config.ts'
import { setAttributeInPlace } from '../../src/onnx/attributes.ts'
import { modelLayers } from '../../src/onnx/layers.ts'
import { loadModel } from '../../src/onnx/load.ts'
import {
  AttributeType,
  type AttributeValue,
  decodeModel,
  encodeModel,
  type ModelProto,
  makeNode,
  type NodeProto,
} from '../../src/onnx/proto.ts'
import type { WrittenUse } from '../../src/onnx/represent/apply.ts'
import type { LayerPlan } from '../../src/onnx/represent/plan.ts'
import { saveModel } from '../../src/onnx/save.ts'
import { SourceReader } from '../../src/onnx/sourceReader.ts'
import type { Bits } from '../../src/quant/quantizedWeight.ts'
import { buildOutput } from '../../src/quantize/buildOutput.ts'
import { planModel } from '../../src/quantize/planModel.ts'
import { type QuantizedLayerData, quantizeLayers } from '../../src/quantize/quantizeLayers.ts'
import type { RepresentationName } from '../../src/report.ts'
import { createPool } from '../../src/threads/pool.ts'
import type { LayerReference } from '../../src/verify/reference.ts'
import { TOLERANCE, verifyWritten } from '../../src/verify/verify.ts'
import { model, value } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import { normals } from '../quantize/roundTrip.ts'

const directory = useTempDir()
const INT64 = 7

interface Written {
  readonly path: string
  readonly uses: readonly WrittenUse[]
  readonly references: ReadonlyMap<string, LayerReference>
}

/** What quantizeModel does up to the check; `spoil` may change plans behind the packer's back. */
async function write(
  proto: ModelProto,
  config: Partial<QuantizeConfig>,
  spoil: (layer: QuantizedLayerData) => QuantizedLayerData = (layer) => layer,
): Promise<Written> {
  const source = path.join(directory, 'source.onnx')
  const out = path.join(directory, 'out.onnx')
  fs.writeFileSync(source, encodeModel(proto))
  const full = { ...QUANTIZE_DEFAULTS, symmetric: 'no', method: 'rtn', ...config } as const
  const loaded = loadModel(source)
  const plan = planModel(loaded, modelLayers(loaded.proto), full)
  const reader = new SourceReader(loaded)
  const pool = createPool(1)
  const sink = (bytes: Uint8Array) => ({ kind: 'memory', byteLength: bytes.length, bytes: bytes.slice() }) as const
  const layers = await quantizeLayers({ model: loaded, reader, pool }, plan.plans, full, sink, {})
  reader.close()
  await pool.close()
  const built = buildOutput(loaded, layers.map(spoil), [], plan.target, full, { version: '0', sha256: ['0'] })
  saveModel(built.model.proto, built.model.payloads, out, { externalData: 'never', force: true, sources: [source] })
  const references = new Map(layers.map((layer) => [layer.plan.layer.name, layer.reference!]))
  return { path: out, uses: built.written, references }
}

const verify = ({ path: file, uses, references }: Written) => verifyWritten({ path: file }, uses, references, 1)

const product = model({
  initializer: [normals('w', [64, 48])],
  node: [makeNode('MatMul', ['x', 'w'], ['y'], { name: 'the product' })],
  input: [value('x', [2, 64])],
  output: [value('y', [2, 48])],
})
const lookup = model({
  initializer: [normals('w', [50, 64])],
  node: [makeNode('Gather', ['w', 'x'], ['y'], { name: 'the table' })],
  input: [value('x', [2], INT64)],
  output: [value('y', [2, 64])],
})
const convolution = model({
  initializer: [normals('w', [24, 16, 3, 3])],
  node: [makeNode('Conv', ['x', 'w'], ['y'], { name: 'the filter' })],
  input: [value('x', [1, 16, 5, 5])],
  output: [value('y', [1, 24, 3, 3])],
})
const batched = model({
  initializer: [normals('w', [2, 48, 40])],
  node: [makeNode('MatMul', ['x', 'w'], ['y'], { name: 'the stack' })],
  input: [value('x', [2, 3, 48])],
  output: [value('y', [2, 3, 40])],
})

type Case = readonly [RepresentationName, string, ModelProto, Partial<QuantizeConfig>]
const CASES: Case[] = [
  ...([8, 6, 5, 4, 3, 2] as const).map(
    (bits): Case => ['MatMulNBits', `${bits} bits`, product, { bits, format: 'contrib' }],
  ),
  ...([8, 4] as const).map((bits): Case => ['GatherBlockQuantized', `${bits} bits`, lookup, { bits }]),
  ...([6, 3] as const).map((bits): Case => ['gather-rows', `${bits} bits`, lookup, { bits }]),
  ...([8, 5, 4, 2] as const).map((bits): Case => ['folded', `${bits} bits`, convolution, { bits }]),
  ['folded', 'a stack, 3 bits', batched, { bits: 3 }],
  ...([8, 4] as const).flatMap((bits): Case[] => [
    ['DequantizeLinear', `tensor, ${bits} bits`, convolution, { bits, format: 'standard' }],
    ['DequantizeLinear', `stack, ${bits} bits`, batched, { bits, format: 'standard' }],
    ['DequantizeLinear', `columns, ${bits} bits`, product, { bits, format: 'standard' }],
  ]),
  ['DequantizeLinear', 'columns unpacked from 5 bits', product, { bits: 5, format: 'standard' }],
]

/** Change one thing in the file; every change is of something that matters. */
function tampered(written: Written, change: (proto: ModelProto) => void): Written {
  const proto = decodeModel(fs.readFileSync(written.path))
  change(proto)
  const file = path.join(directory, 'tampered.onnx')
  fs.writeFileSync(file, encodeModel(proto))
  return { ...written, path: file }
}

/** Flip one bit of the first byte of a stored tensor (row 0, column 0, or its group). */
function flip(proto: ModelProto, role: string, bit: number, byte = 0): void {
  const found = proto.graph!.initializer.find((tensor) => tensor.name === `qtool/0/${role}`)!
  found.rawData[byte]! ^= 1 << bit
}

const roleNames = (file: string) =>
  decodeModel(fs.readFileSync(file))
    .graph!.initializer.map(({ name }) => name)
    .filter((name) => name.startsWith('qtool/0/'))
    .map((name) => name.slice('qtool/0/'.length))

/** Other values for the attributes that say how stored numbers are read. */
function otherAttributes(node: NodeProto): { name: string; value: AttributeValue }[] {
  return node.attribute.flatMap((a): { name: string; value: AttributeValue }[] => {
    if (a.name === 'accuracy_level') return []
    if (a.name === 'block_size') return [{ name: a.name, value: Number(a.i) * 2 }]
    if (a.name === 'direction') {
      const text = new TextDecoder().decode(a.s)
      return [{ name: a.name, value: text === 'LEFT' ? 'RIGHT' : 'LEFT' }]
    }
    if (a.name === 'perm') return [{ name: a.name, value: a.ints.map(Number).toSorted((p, q) => p - q) }]
    if (a.type !== AttributeType.INT) return []
    if (a.name === 'bits') return [{ name: a.name, value: a.i === 4n ? 8 : 4 }]
    if (a.name === 'to') return [{ name: a.name, value: INT64 }]
    return [{ name: a.name, value: Number(a.i) + 1 }]
  })
}

describe.each(CASES)('%s, %s', (representation, _, proto, config) => {
  const layer = proto.graph!.node[0]!.name

  it.each(['yes', 'no'] as const)('as written, symmetric: %s', async (symmetric) => {
    const written = await write(proto, { ...config, symmetric })
    const found = await verify(written)
    expect(found.map((use) => [use.name, use.representation])).toEqual([[layer, representation]])
    const { largestDifference, tolerance } = found[0]!
    expect(tolerance).toBe(representation === 'MatMulNBits' ? TOLERANCE.float32Product : TOLERANCE.exact)
    expect(largestDifference).toBeLessThanOrEqual(tolerance)
  })

  it('one bit of its numbers changed', async () => {
    const written = await write(proto, config)
    const roles = roleNames(written.path)
    expect(roles).toContain('scales')
    expect(roles).toContain('zeroPoints')
    expect(roles.some((role) => role === 'codes' || role === 'low')).toBe(true)
    for (const role of roles) {
      // The sign of a float16, the lowest bit of anything else.
      const change = (changed: ModelProto) => (role === 'scales' ? flip(changed, role, 7, 1) : flip(changed, role, 0))
      const verdict = verify(tampered(written, change))
      await expect(verdict, role).rejects.toMatchObject({
        code: 'verify',
        message: expect.stringContaining(`layer '${layer}' (${representation})`),
      })
    }
  })

  it('an attribute changed', async () => {
    const written = await write(proto, config)
    const { node: nodes } = decodeModel(fs.readFileSync(written.path)).graph!
    const changes = nodes.flatMap((node, i) =>
      node.opType === 'Conv' ? [] : otherAttributes(node).map((other) => ({ ...other, i, opType: node.opType })),
    )
    expect(changes.length).toBeGreaterThan(0)
    for (const { i, name, value: other, opType } of changes) {
      const verdict = verify(tampered(written, (changed) => setAttributeInPlace(changed.graph!.node[i]!, name, other)))
      await expect(verdict, `${opType}.${name}`).rejects.toMatchObject({ code: 'verify' })
    }
  })
})

describe('a defect of the writer', () => {
  const spoilPlan = (change: (plan: LayerPlan) => Partial<LayerPlan>) => (layer: QuantizedLayerData) => {
    return { ...layer, plan: { ...layer.plan, ...change(layer.plan) } }
  }

  it.each<[string, ModelProto, Bits, (plan: LayerPlan) => Partial<LayerPlan>]>([
    ['groups that are twice as long', product, 4, (plan) => ({ kernelBlock: plan.kernelBlock * 2 })],
    ['another width', product, 4, () => ({ bits: 8 })],
    ['columns that are not cut', convolution, 4, ({ paddedCols }) => ({ paddedCols: paddedCols / 2 })],
    ['planes of another width', convolution, 2, () => ({ bits: 4 })],
  ])('%s', async (_, proto, bits, change) => {
    const attempt = write(proto, { bits }, spoilPlan(change)).then(verify)
    await expect(attempt).rejects.toMatchObject({ code: 'verify' })
  })

  it('rows in each other’s places', async () => {
    const spoil = (layer: QuantizedLayerData) => {
      const copy = { ...layer, payloads: [...layer.payloads] }
      const rows = copy.tensors.findIndex((tensor) => tensor.role === 'codes')
      const { bytes } = copy.payloads[rows] as { bytes: Uint8Array }
      const half = bytes.length / 2
      // The rows of the first half behind those of the second.
      const turned = Uint8Array.from(bytes, (_byte, i) => bytes[(i + half) % bytes.length]!)
      copy.payloads[rows] = { kind: 'memory', byteLength: turned.length, bytes: turned }
      return copy
    }
    await expect(write(product, { bits: 4 }, spoil).then(verify)).rejects.toMatchObject({ code: 'verify' })
  })

  it('nodes that are missing', async () => {
    const written = await write(convolution, { bits: 4 })
    const missing = tampered(written, (proto) => {
      const nodes = proto.graph!.node
      const last = nodes.findIndex((node) => node.output[0] === 'w')
      nodes[nodes.findIndex((node) => node.input.includes('w') && node.opType === 'Conv')]!.input[1] =
        nodes[last]!.input[0]!
      nodes.splice(last, 1)
    })
    await expect(verify(missing)).rejects.toMatchObject({ code: 'verify' })
  })

  it('a file that is gone or cut', async () => {
    const written = await write(product, { bits: 4 })
    await expect(verify({ ...written, path: `${written.path}.gone` })).rejects.toMatchObject({ code: 'verify' })
    const cut = path.join(directory, 'cut.onnx')
    fs.writeFileSync(cut, fs.readFileSync(written.path).subarray(0, 500))
    await expect(verify({ ...written, path: cut })).rejects.toMatchObject({ code: 'verify' })
  })
})

it('stops when it is told to', async () => {
  const written = await write(product, { bits: 4 })
  const signal = AbortSignal.abort()
  await expect(
    verifyWritten({ path: written.path }, written.uses, written.references, 1, { signal }),
  ).rejects.toMatchObject({
    code: 'interrupted',
  })
})
