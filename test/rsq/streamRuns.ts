/** @file Feeds for the models of streams, and running them. */
import type { FeedTensor } from '../../src/data/modelInput.ts'
import { DataType, encodeModel, type ModelProto } from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'
import { openSession } from '../../src/runtime/session.ts'

/** Seeded feeds for these models: token ids [2, 6], decoder ids [2, 4], pixels [2, 3, 8, 8]. */
export function feedsOf(model: ModelProto, seed = 7, vocab = 9): Map<string, FeedTensor> {
  const random = makeRandom(seed)
  const feeds = new Map<string, FeedTensor>()
  for (const { name, type } of model.graph!.input) {
    if (name === 'pixels') {
      const dims = [2, 3, 8, 8]
      const values = Array.from({ length: 384 }, () => random.normal())
      const isDouble = type?.value.case === 'tensorType' && type.value.value.elemType === DataType.DOUBLE
      if (isDouble) feeds.set(name, { type: 'double', dims, data: Float64Array.from(values) })
      else feeds.set(name, { type: 'float', dims, data: Float32Array.from(values) })
      continue
    }
    const dims = name === 'input_ids' ? [2, 6] : [2, 4]
    const data = BigInt64Array.from({ length: dims[0]! * dims[1]! }, () => BigInt(random.below(vocab)))
    feeds.set(name, { type: 'int64', dims, data })
  }
  return feeds
}

/** Run a model; the runtime changes nothing of the graph, so that every node computes what it says. */
export async function runModel(model: ModelProto, feeds = feedsOf(model)): Promise<Map<string, FeedTensor>> {
  const session = await openSession(
    { bytes: encodeModel(model), path: 'model.onnx' },
    { threads: 1, optimization: 'disabled' },
  )
  try {
    return await session.run(feeds)
  } finally {
    await session.dispose()
  }
}
