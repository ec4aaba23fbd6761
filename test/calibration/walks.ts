/** @file Walks through small models, and the same values by onnxruntime on the whole model. */
import os from 'node:os'
import path from 'node:path'
import { analyseMainGraph } from '../../src/calibration/mainGraph.ts'
import { Walk, type WalkOptions } from '../../src/calibration/walk.ts'
import type { FeedBatch, FeedTensor } from '../../src/data/modelInput.ts'
import { indexModel } from '../../src/onnx/graph.ts'
import type { OnnxModel } from '../../src/onnx/model.ts'
import { encodeModel, type ModelProto, makeValueInfo } from '../../src/onnx/proto.ts'
import { openSession } from '../../src/runtime/session.ts'

/** A model with all its numbers in memory. */
export function inMemory(proto: ModelProto): OnnxModel {
  return { path: 'test.onnx', proto, payloads: new Map(), files: [] }
}

type WalkParts = Pick<WalkOptions, 'fit' | 'held'> & Partial<WalkOptions>

export function walkThrough(proto: ModelProto, parts: WalkParts): Walk {
  return new Walk({
    model: inMemory(proto),
    graph: analyseMainGraph(indexModel(proto)),
    batchSize: 2,
    weights: new Set(),
    edit: (node) => node,
    scratch: () => path.join(os.tmpdir(), 'qtool-test-is-never-made'),
    run: {},
    ...parts,
  })
}

/** Every value of the main graph for each batch, computed on the whole model. */
export async function allValues(
  model: ModelProto,
  batches: readonly FeedBatch[],
): Promise<ReadonlyMap<string, FeedTensor>[]> {
  const graph = model.graph!
  const made = graph.node.flatMap(({ output }) => output.filter((name) => name !== ''))
  const open = { ...model, graph: { ...graph, output: made.map((name) => makeValueInfo(name)) } }
  const session = await openSession({ bytes: encodeModel(open), path: 'test' }, { optimization: 'disabled' })
  try {
    const results: ReadonlyMap<string, FeedTensor>[] = []
    for (const { feeds } of batches) results.push(new Map([...feeds, ...(await session.run(feeds))]))
    return results
  } finally {
    await session.dispose()
  }
}
