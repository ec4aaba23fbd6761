/**
 * @file What it saves to run the network from the changed layer on, instead of the whole of it, when each layer is measured alone.
 *
 * `npx tsx bench/sweepSpeed.ts [--only lm-3m,resnet56,use-lite]`
 *
 * For every layer, on the same held-out samples and with its float weight fed as a candidate would be: a run from its cut to
 * the outputs; a run of the whole network with weights as inputs; and a run of the whole network in a session of its own, as
 * it takes without weights as inputs. Sessions of the first are made once for a group of layers, as in the tool.
 */
import { parseArgs } from 'node:util'
import { judgingBatches } from '../src/calibration/judgingBatches.ts'
import { declaredInputs } from '../src/calibration/openCalibration.ts'
import { QUANTIZE_DEFAULTS } from '../src/config.ts'
import { openConfiguredData } from '../src/data/configured.ts'
import { splitDataset } from '../src/data/split.ts'
import { modelLayers } from '../src/onnx/layers.ts'
import { loadModel } from '../src/onnx/load.ts'
import { groupedLayers } from '../src/quantize/layerGroups.ts'
import { openNetworkWalk } from '../src/quantize/networkWalk.ts'
import { openSession } from '../src/runtime/session.ts'
import { findModels } from './modelList.ts'
import { requireSharedModels, runBenchmark } from './paths.ts'
import { QUALITY_MODELS } from './qualityModels.ts'
import { machineLine, markdownTable } from './results.ts'

const CANDIDATES = 6

interface Seconds {
  readonly name: string
  readonly layers: number
  /** Of all layers at {@link CANDIDATES} candidates each. */
  readonly suffix: number
  readonly whole: number
  readonly sessions: number
}

const since = (started: number): number => (performance.now() - started) / 1000

async function measure(name: string): Promise<Seconds> {
  const [bench] = findModels([name])
  const quality = QUALITY_MODELS.find((model) => model.name === name)
  if (!bench || !quality) throw new Error(`--only: ${name} is no model of quality.ts`)
  const config = { ...QUANTIZE_DEFAULTS, ...quality.calibration }
  const model = loadModel(bench.path)
  const found = modelLayers(model.proto)
  const dataset = await openConfiguredData(config, declaredInputs(model), model.path, { pickSeed: 0 })
  const { fit, held } = splitDataset(dataset, { samples: config.samples, holdout: config.holdout, seed: 0 })
  const data = { fit, held, batchSize: 8, notes: [], source: '', scratch: () => '' }
  const grouped = groupedLayers(found, found.layers)
  const open = () => openNetworkWalk(model, found.layers, grouped, data, {})
  const seconds = { suffix: 0, whole: 0, sessions: 0 }

  const start = open()
  const end = start.graph.nodes.length
  const whole = await start.openTrial(end)
  const runWhole = async () => {
    for (const batch of judgingBatches(start)) await whole.run('float', batch, { place: 'whole' })
  }
  const walk = open()
  for (const group of grouped.groups) {
    await walk.advance(group.position)
    let started = performance.now()
    const trial = await walk.openTrial(end)
    seconds.suffix += since(started)
    for (const _member of group.members) {
      for (let k = 0; k < CANDIDATES; k++) {
        started = performance.now()
        for (const batch of judgingBatches(walk)) await trial.run('float', batch, { place: 'suffix' })
        seconds.suffix += since(started)
        started = performance.now()
        await runWhole()
        seconds.whole += since(started)
        started = performance.now()
        const session = await openSession(bench.path)
        for (const { feeds } of held.batches(8)) await session.run(feeds)
        await session.dispose()
        seconds.sessions += since(started)
      }
    }
    await trial.close()
  }
  await whole.close()
  return { name, layers: found.layers.length, ...seconds }
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { only: { type: 'string', default: 'lm-3m,resnet56,use-lite' } } })
  requireSharedModels()
  const rows: Seconds[] = []
  for (const name of values.only.split(',')) rows.push(await measure(name))
  const table = rows.map(({ name, layers, suffix, whole, sessions }) => [
    ...[name, `${layers} × ${CANDIDATES}`, suffix.toFixed(1), whole.toFixed(1), sessions.toFixed(1)],
    `${(whole / suffix).toFixed(2)}, ${(sessions / suffix).toFixed(2)}`,
  ])
  const head = ['model', 'runs', 'from the layer, s', 'whole network, s', 'own session each, s', 'times as fast']
  console.log(`${machineLine()}\n\n${markdownTable(head, table)}`)
}

await runBenchmark(main)
