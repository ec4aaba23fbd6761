/**
 * Codebook weights in every written form, run by onnxruntime: what it computes is what the definition of the weight says,
 * bit for bit.
 */
import fs from 'node:fs'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { describe, expect, it } from 'vitest'
import { DataType, decodeModel } from '../../src/onnx/proto.ts'
import { codebookOpset } from '../../src/onnx/represent/codebookForm.ts'
import type { Target } from '../../src/onnx/represent/plan.ts'
import { makeRandom } from '../../src/random.ts'
import { useTempDir } from '../helpers/tempDir.ts'
import {
  check,
  definition,
  expectedOutputs,
  feedsFor,
  firstDifference,
  formsOf,
  halves,
  nameOf,
  outputs,
  planFor,
  randomWeight,
  source,
  write,
} from './codebookModels.ts'

const directory = useTempDir()

describe('products', () => {
  for (const [rows, cols] of [
    [5, 150],
    [260, 9],
    [1, 70],
    [129, 1],
  ] as const) {
    it(`MatMul ${rows} × ${cols}`, async () => {
      for (const form of formsOf(rows)) await check(form, 'MatMul', [rows, cols])
    })
  }

  it('MatMul in groups of columns', async () => {
    for (const form of formsOf(37)) await check(form, 'MatMul', [37, 45], { groupSize: 16 })
  })

  it('Gemm with transposed weight and bias', async () => {
    for (const form of formsOf(37)) await check(form, 'Gemm', [37, 21])
  })

  it('with int8 activations, as they are written', async () => {
    const random = makeRandom(3)
    for (const form of formsOf(40)) {
      const proto = source('MatMul', 40, 64, DataType.FLOAT)
      const target: Target = { format: 'auto', opset: 18, accuracyLevel: 4 }
      const plan = planFor(proto, form, 'channel', target)
      const weight = randomWeight(plan)
      const real = definition(weight)
      const x = Float32Array.from({ length: 64 * 64 }, () => random.normal())
      const { y } = await outputs(write(proto, [{ plan, weight }], target), {
        x: new ort.Tensor('float32', x, [64, 64]),
      })
      let error = 0
      let norm = 0
      for (let m = 0; m < 64; m++) {
        for (let n = 0; n < 40; n++) {
          let sum = 0
          for (let k = 0; k < 64; k++) sum += x[m * 64 + k]! * real[n * 64 + k]!
          error += (y![m * 40 + n]! - sum) ** 2
          norm += sum ** 2
        }
      }
      expect(Math.sqrt(error / norm), nameOf(form)).toBeLessThan(0.01)
    }
  })

  it('standard operators only', async () => {
    for (const form of formsOf(37)) {
      await check(form, 'MatMul', [37, 45], { format: 'standard', groupSize: form.bits === 4 ? 32 : 'channel' })
      await check(form, 'Gemm', [37, 21], { format: 'standard', opset: 18 })
    }
  })
})

describe('loading', () => {
  it('leaves the product alone: all of the lookup is folded', async () => {
    for (const form of formsOf(37)) {
      const proto = source('MatMul', 37, 21, DataType.FLOAT)
      const target: Target = { format: 'auto', opset: 18, accuracyLevel: 4 }
      const plan = planFor(proto, form, 'channel', target)
      const file = path.join(directory, 'optimized.onnx')
      const built = write(proto, [{ plan, weight: randomWeight(plan) }], target)
      await outputs(built, feedsFor('MatMul', 37, 21), undefined, file)
      const { graph } = decodeModel(fs.readFileSync(file))
      expect(
        graph!.node.map(({ opType }) => opType),
        nameOf(form),
      ).toEqual(['MatMulNBits'])
    }
  })
})

describe('rebuilt tensors', () => {
  it('Conv, one scale a row or several', async () => {
    for (const form of formsOf(37)) {
      await check(form, 'Conv', [37, 21], { groupSize: form.bits === 3 ? 'channel' : 16 })
    }
  })
})

describe('lookups', () => {
  for (const [rows, cols] of [
    [37, 21],
    [260, 9],
    [129, 3],
  ] as const) {
    it(`Gather ${rows} × ${cols}`, async () => {
      for (const form of formsOf(rows)) await check(form, 'Gather', [rows, cols])
    })
  }

  it('Gather in groups of columns, in standard operators', async () => {
    for (const form of formsOf(37)) await check(form, 'Gather', [37, 45], { groupSize: 16, format: 'standard' })
  })

  it('tied to a product: one set of tensors', async () => {
    for (const form of formsOf(37)) {
      await check(form, 'tied', [37, 45], { groupSize: 16 })
      await check(form, 'tied', [37, 21], { format: 'standard' })
    }
  })

  it('decode at load what is small', () => {
    const target: Target = { format: 'auto', opset: 18, accuracyLevel: 4 }
    for (const form of formsOf(256)) {
      for (const [cols, use] of [
        [256, 'folded'],
        [257, 'gather-rows'],
      ] as const) {
        expect(planFor(source('Gather', 256, cols, DataType.FLOAT), form, 'channel', target).uses).toEqual([use])
      }
    }
  })

  it('are right when they are decoded at load', async () => {
    for (const form of formsOf(129)) await check(form, 'Gather', [129, 3], { smallTable: 387 })
  })

  it('at the lowest opset that a form needs', async () => {
    for (const form of formsOf(37)) {
      const opset = codebookOpset(form.form, form.bits)
      await check(form, 'tied', [37, 21], { opset })
      await check(form, 'Conv', [37, 21], { opset })
    }
  })
})

describe('float16 models', () => {
  it('compute what the definition says, rounded to float16', async () => {
    for (const form of formsOf(37)) {
      const proto = source('tied', 37, 21, DataType.FLOAT16)
      const target: Target = { format: 'auto', opset: 18, accuracyLevel: 0, smallTable: 0 }
      const plan = planFor(proto, form, 'channel', target)
      const weight = randomWeight(plan)
      const feeds = feedsFor('tied', 37, 21)
      const x = halves(feeds.x!.data as Float32Array)
      const found = await outputs(
        write(proto, [{ plan, weight }], target),
        { ...feeds, x: new ort.Tensor('float16', x, [21, 21]) },
        0,
      )
      const expected = expectedOutputs('tied', 37, 21, definition(weight))
      for (const name of ['y', 'e']) {
        expect(firstDifference(found[name]!, Float32Array.from(halves(expected[name]!))), nameOf(form)).toBe('none')
      }
    }
  })
})
