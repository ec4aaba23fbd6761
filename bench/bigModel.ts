/** @file Write a large float32 model with external data: a chain of square MatMuls with distinct random weights. */
import { closeSync, existsSync, mkdirSync, openSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import {
  DataLocation,
  DataType,
  encodeModel,
  makeMetadata,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
} from '../src/onnx/proto.ts'

/** Weights are triangular on (−1, 1) · this, so a chain of layers of width 4096 neither explodes nor dies out. */
const SPREAD = 0.0383

/** Fill with a xorshift generator: identical layers would be deduplicated by onnxruntime, so every layer has its own state. */
function fillRandom(values: Float32Array, state: number): number {
  let s = state
  for (let i = 0; i < values.length; i++) {
    s ^= s << 13
    s ^= s >>> 17
    s ^= s << 5
    values[i] = (((s & 0xffff) + (s >>> 16)) / 65536 - 1) * SPREAD
  }
  return s
}

/**
 * Write `path` and `path` + '_data' unless they are already there.
 * @param layers number of MatMuls; each weight is [width, width] float32.
 */
export function writeBigModel(path: string, layers: number, width: number): void {
  const dataPath = `${path}_data`
  const layerBytes = width * width * 4
  if (existsSync(path) && existsSync(dataPath) && statSync(dataPath).size === layers * layerBytes) return
  mkdirSync(dirname(path), { recursive: true })

  const values = new Float32Array(width * width)
  const file = openSync(`${dataPath}.part`, 'w')
  let state = 88172645
  for (let i = 0; i < layers; i++) {
    state = fillRandom(values, state)
    writeFileSync(file, new Uint8Array(values.buffer))
  }
  closeSync(file)
  renameSync(`${dataPath}.part`, dataPath)

  const location = dataPath.slice(dirname(dataPath).length + 1)
  const initializer = Array.from({ length: layers }, (_, i) =>
    makeTensor({
      name: `layer${i}.weight`,
      dims: [BigInt(width), BigInt(width)],
      dataType: DataType.FLOAT,
      dataLocation: DataLocation.EXTERNAL,
      externalData: [
        makeMetadata('location', location),
        makeMetadata('offset', String(i * layerBytes)),
        makeMetadata('length', String(layerBytes)),
      ],
    }),
  )
  const node = initializer.map((weight, i) =>
    makeNode('MatMul', [i ? `x${i}` : 'x', weight.name], [i + 1 < layers ? `x${i + 1}` : 'y'], { name: `layer${i}` }),
  )
  writeFileSync(
    path,
    encodeModel(
      makeModel({
        irVersion: 10n,
        opsetImport: [makeOpset('', 21)],
        graph: { name: 'big', node, initializer, input: [floatValue('x', width)], output: [floatValue('y', width)] },
      }),
    ),
  )
}

function floatValue(name: string, width: number) {
  const dim = [
    { value: { case: 'dimParam' as const, value: 'batch' } },
    { value: { case: 'dimValue' as const, value: BigInt(width) } },
  ]
  return {
    name,
    type: { value: { case: 'tensorType' as const, value: { elemType: DataType.FLOAT, shape: { dim } } } },
  }
}
