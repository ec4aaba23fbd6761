/** @file Semantic textual similarity: how well a sentence encoder orders pairs of sentences (STS-B, Pearson). */
import { InferenceSession, Tensor } from 'onnxruntime-node'
import type { NdArray } from '../src/data/ndArray.ts'
import { readArrays } from './data.ts'
import { requirePath, SHARED_MODELS } from './paths.ts'

const BATCH = 100

/** Rows [start, end) of an int64 matrix as a tensor. */
function rows({ data, shape }: NdArray, start: number, end: number): Tensor {
  const width = shape[1]!
  return new Tensor('int64', (data as BigInt64Array).slice(start * width, end * width), [end - start, width])
}

/** 1 − angle / π of two vectors: 1 when they point the same way. */
function angularSimilarity(a: Float32Array, b: Float32Array): number {
  let [dot, aa, bb] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    dot += a[i]! * b[i]!
    aa += a[i]! * a[i]!
    bb += b[i]! * b[i]!
  }
  const cosine = Math.min(1, Math.max(-1, dot / Math.sqrt(aa * bb)))
  return 1 - Math.acos(cosine) / Math.PI
}

function pearson(x: readonly number[], y: readonly number[]): number {
  const mean = (v: readonly number[]) => v.reduce((sum, value) => sum + value, 0) / v.length
  const [mx, my] = [mean(x), mean(y)]
  let [xy, xx, yy] = [0, 0, 0]
  for (let i = 0; i < x.length; i++) {
    xy += (x[i]! - mx) * (y[i]! - my)
    xx += (x[i]! - mx) ** 2
    yy += (y[i]! - my) ** 2
  }
  return xy / Math.sqrt(xx * yy)
}

/**
 * Pearson correlation of the model's similarities with the human scores of STS-B's development set.
 * @param model path of a sentence encoder: input_ids, attention_mask → one vector a row.
 * @param pairs use the first ones only; all when absent.
 * @returns the correlation and the number of pairs.
 * @throws Missing without the pairs.
 */
export async function stsPearson(model: string, pairs?: number): Promise<{ pearson: number; pairs: number }> {
  const path = requirePath(`${SHARED_MODELS}/use-lite/sts_dev_pairs.npz`, 'the STS-B pairs are needed')
  const { input_ids: ids, attention_mask: mask, score } = readArrays(path)
  const session = await InferenceSession.create(model, { logSeverityLevel: 4 })
  const similarities: number[] = []
  const total = Math.min(ids!.shape[0]!, pairs === undefined ? Infinity : 2 * pairs)
  for (let start = 0; start < total; start += BATCH) {
    const end = Math.min(total, start + BATCH)
    const results = await session.run({ input_ids: rows(ids!, start, end), attention_mask: rows(mask!, start, end) })
    const vectors = results.sentence_embedding!
    const width = vectors.dims[1]!
    const data = vectors.data as Float32Array
    // Rows 2i and 2i + 1 are a pair; BATCH is even.
    for (let r = 0; r < end - start; r += 2) {
      const vector = (row: number) => data.subarray(row * width, (row + 1) * width)
      similarities.push(angularSimilarity(vector(r), vector(r + 1)))
    }
  }
  await session.release()
  const scores = [...(score!.data as Float32Array).subarray(0, similarities.length)]
  return { pearson: pearson(similarities, scores), pairs: similarities.length }
}
