/**
 * @file What transforms inside the graph (`--online-rotation`) cost in every run: a model with 4-bit weights with them, beside the same
 * without, in turns.
 *
 * `npx tsx bench/onlineRotation.ts --model PATH [--tokens 1,128] [--runs 30]`
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { declaredInputs } from '../src/calibration/openCalibration.ts'
import type { FeedTensor } from '../src/data/modelInput.ts'
import { measureLatency } from '../src/eval/latency.ts'
import { modelLayers } from '../src/onnx/layers.ts'
import { loadModel } from '../src/onnx/load.ts'
import { saveModel } from '../src/onnx/save.ts'
import { quantizeModel } from '../src/pipeline.ts'
import { rotationParts } from '../src/quantize/rotationParts.ts'
import { openSession } from '../src/runtime/session.ts'
import { OUT, requirePath, runBenchmark } from './paths.ts'
import { machineLine, markdownTable } from './results.ts'

/** Zeros for every input, [1, tokens] where it has two axes. */
function feedsOf(path: string, tokens: number): ReadonlyMap<string, FeedTensor> {
  const feeds = declaredInputs(loadModel(path)).map(({ name, elementType, dims }): [string, FeedTensor] => {
    if (elementType !== 'int64') throw new Error(`${path}: input ${name} is ${elementType}, wanted token ids (int64)`)
    const shape = dims.map((dim, axis) => (typeof dim === 'number' ? dim : axis === 0 ? 1 : tokens))
    return [name, { type: 'int64', dims: shape, data: new BigInt64Array(shape.reduce((a, b) => a * b, 1)).fill(1n) }]
  })
  return new Map(feeds)
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: 'string' },
      tokens: { type: 'string', default: '1,128' },
      runs: { type: 'string', default: '30' },
    },
  })
  const path = requirePath(values.model ?? '', 'give --model the path of a transformer that takes token ids')
  const folder = join(OUT, 'online')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const model = loadModel(path)
  const { parts } = rotationParts(modelLayers(model.proto), { format: 'auto', onlineRotation: true })
  const turned = parts.at(-1)!.apply(model, 0)
  const names = { plain: join(folder, 'plain.onnx'), online: join(folder, 'online.onnx') }
  const float = join(folder, 'float.onnx')
  saveModel(turned.proto, turned.payloads, float, { externalData: 'auto', force: true, sources: [] })
  const options = { bits: 4, groupSize: 32, method: 'rtn', verify: false, force: true } as const
  await quantizeModel(path, names.plain, options)
  await quantizeModel(float, names.online, options)
  const rows: string[][] = []
  const sessions = { reference: await openSession(names.plain), candidate: await openSession(names.online) }
  for (const tokens of values.tokens.split(',').map(Number)) {
    const feeds = feedsOf(path, tokens)
    const times = await measureLatency(sessions, { reference: feeds, candidate: feeds }, Number(values.runs))
    const ratio = times.candidate / times.reference
    rows.push([String(tokens), times.reference.toFixed(2), times.candidate.toFixed(2), ratio.toFixed(3)])
  }
  await sessions.reference.dispose()
  await sessions.candidate.dispose()
  rmSync(folder, { recursive: true, force: true })
  const added = turned.proto.graph!.node.length - model.proto.graph!.node.length
  console.log(`${path}: ${added} nodes added. ${machineLine()}.`)
  console.log(markdownTable(['tokens', 'ms without', 'ms with', 'ratio'], rows))
}

await runBenchmark(main)
