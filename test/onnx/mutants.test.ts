/** @file Thousands of damaged real models: each loads, or is refused as a model, at once. */
import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { QtoolError } from '../../src/errors.ts'
import { excise } from '../../src/onnx/excise.ts'
import { loadModel } from '../../src/onnx/load.ts'
import { encodeModel } from '../../src/onnx/proto.ts'
import { tensorByteLength, tensorBytes } from '../../src/onnx/tensorData.ts'
import { forEachTensor } from '../../src/onnx/tensors.ts'
import { memorySource, putVarint } from '../../src/onnx/wire.ts'
import { makeRandom, type Random } from '../../src/random.ts'
import { npmModels } from '../helpers/npmModels.ts'
import { branches, chain, external, floats } from '../helpers/smallModels.ts'
import { useTempDir } from '../helpers/tempDir.ts'

const temp = useTempDir()

interface Seed {
  readonly bytes: Buffer
  /** Positions outside of the weights, where damage matters. */
  readonly structure: Uint32Array
}

type Position = () => number

/** Positions to damage: mostly in the structure, now and then anywhere. */
function positionsIn({ bytes, structure }: Seed, random: Random): Position {
  return () => (random.below(10) === 0 ? random.below(bytes.length) : structure[random.below(structure.length)]!)
}

const damages: Readonly<Record<string, (bytes: Buffer, position: Position, random: Random) => Buffer>> = {
  flip: (bytes, position, random) => {
    for (let flips = 1 + random.below(4); flips > 0; flips--) bytes[position()]! ^= 1 << random.below(8)
    return bytes
  },
  cut: (bytes, position) => bytes.subarray(0, position()),
  insert: (bytes, position, random) => {
    const at = position()
    const noise = Buffer.from(Array.from({ length: 1 + random.below(8) }, () => random.below(256)))
    return Buffer.concat([bytes.subarray(0, at), noise, bytes.subarray(at)])
  },
  remove: (bytes, position, random) => {
    const at = position()
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(16))])
  },
  /** A varint of any size on top of what is there, most likely hitting a length. */
  inflate: (bytes, position, random) => {
    const at = Math.min(position(), bytes.length - 10)
    const size = 1 + random.below(9)
    putVarint(bytes, at, Math.min(2 ** random.below(60), 128 ** size - 1), size)
    return bytes
  },
  overwrite: (bytes, position, random) => {
    const at = position()
    bytes.subarray(at, at + 1 + random.below(64)).fill([0, 0xff, 0x80, random.below(256)][random.below(4)]!)
    return bytes
  },
}

function seed(bytes: Buffer): Seed {
  const inWeights = new Uint8Array(bytes.length)
  for (const { offset, length } of excise(memorySource(bytes)).payloads) inWeights.fill(1, offset, offset + length)
  return { bytes, structure: Uint32Array.from(bytes.keys()).filter((at) => inWeights[at] === 0) }
}

function seeds(): Seed[] {
  const external1 = external('e', [32, 32], { location: 'w.bin', offset: '0', length: '4096' })
  const small = chain([floats('w', [32, 32]), external1], {
    node: [branches(floats('tw', [32, 32]), floats('', [32, 32]))],
  })
  small.graph!.initializer.push(floats('c', [1]))
  fs.writeFileSync(path.join(temp, 'w.bin'), new Uint8Array(4096))
  const real = [npmModels.wakeWord, npmModels.wakeWordOld, npmModels.ocrClassifier].map((file) => fs.readFileSync(file))
  return [Buffer.from(encodeModel(small)), ...real].map(seed)
}

test('3,000 damaged models load or are refused, nothing else', () => {
  const random = makeRandom(2024)
  const file = path.join(temp, 'mutant.onnx')
  const kinds = Object.entries(damages)
  const models = seeds()
  for (const { bytes } of models) {
    fs.writeFileSync(file, bytes)
    loadModel(file)
  }
  const loads: Record<string, number> = {}
  const before = process.memoryUsage().rss
  let slowest = 0
  for (let i = 0; i < 3000; i++) {
    const [kind, damage] = kinds[i % kinds.length]!
    // The last one has most nodes and takes longest.
    const model = models[random.below(10) === 0 ? models.length - 1 : random.below(models.length - 1)]!
    const mutant = damage(Buffer.from(model.bytes), positionsIn(model, random), random)
    fs.writeFileSync(file, mutant)
    const start = performance.now()
    try {
      const wholeFileLimit = i % 2 ? 0 : Number.POSITIVE_INFINITY
      const loaded = loadModel(file, { wholeFileLimit })
      // What loads is consistent: all bytes can be read and are as many as the dimensions say.
      forEachTensor(loaded.proto, (tensor) => {
        if (tensor.stringData.length > 0) return
        if (tensorBytes(loaded, tensor).length !== tensorByteLength(tensor)) throw new Error(tensor.name)
      })
      loads[kind] = (loads[kind] ?? 0) + 1
    } catch (error) {
      if (!(error instanceof QtoolError) || error.code !== 'model') {
        throw new Error(`mutant ${i} (${kind}, ${mutant.length} bytes)`, { cause: error })
      }
      expect(error.message).toContain(file)
    }
    slowest = Math.max(slowest, performance.now() - start)
  }
  const grown = (process.memoryUsage().rss - before) / 2 ** 20
  expect(grown).toBeLessThan(500)
  expect(slowest).toBeLessThan(5000)
  // Neither is everything refused, nor is damage in the structure overlooked as a rule.
  const total = Object.values(loads).reduce((sum, loaded) => sum + loaded, 0)
  expect(total).toBeGreaterThan(200)
  expect(total).toBeLessThan(1000)
}, 120_000)
