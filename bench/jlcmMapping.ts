/**
 * @file How indices of shared tables are best found: the paper's distance-weighted gradient, the plain gradient of the
 * softmax, and our coordinate descent, all from the same column recurrence and with the same refits of scales and tables.
 *
 * `npx tsx bench/jlcmMapping.ts [--model stories260K] [--bits 2,3] [--row-groups 1,4] [--fresh] [--render]`
 *
 * Goes on where it stopped: figures are kept in bench/out/jlcmMapping. `--render` writes those that are there.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { MAPPINGS, type QuantizeConfig } from '../src/config.ts'
import { quantizeModel } from '../src/pipeline.ts'
import type { QuantizeReport } from '../src/report.ts'
import { findModels } from './modelList.ts'
import { OUT, requireSharedModels, runBenchmark } from './paths.ts'
import { type Figures, openJudge } from './qualityJudge.ts'
import { QUALITY_MODELS } from './qualityModels.ts'
import { machineLine, markdownTable, writeSection } from './results.ts'

/** For calibration. */
const SAMPLES = 64

interface Run {
  readonly bits: 2 | 3 | 4
  readonly rowGroups: number
  readonly mapping: QuantizeConfig['mapping']
  readonly figures: Figures
  /** Geometric mean over the layers of the held-out output error over that of plain rounding. */
  readonly error: number
  readonly seconds: number
}

function meanError({ layers }: QuantizeReport): number {
  const logs = layers.flatMap(({ calibration }) => {
    const { heldOutError: own, heldOutErrorOfRounding: rounding } = calibration ?? {}
    return own !== undefined && rounding !== undefined && own > 0 && rounding > 0 ? [Math.log(own / rounding)] : []
  })
  return Math.exp(logs.reduce((sum, log) => sum + log, 0) / Math.max(1, logs.length))
}

function table(runs: readonly Run[], metric: string): string {
  const header = ['bits', 'tables', 'indices by', metric, 'KL', 'KL / descent', 'layer error', 'seconds']
  const rows = runs.map(({ bits, rowGroups, mapping, figures, error, seconds }) => {
    const descent = runs.find((run) => run.mapping === 'descent' && run.bits === bits && run.rowGroups === rowGroups)
      ?.figures.kl
    return [
      ...[String(bits), String(rowGroups), mapping, figures.task.toFixed(3), figures.kl!.toPrecision(4)],
      ...[descent === undefined ? '–' : (figures.kl! / descent).toFixed(3), error.toFixed(3), seconds.toFixed(0)],
    ]
  })
  return markdownTable(header, rows)
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: 'stories260K' },
      bits: { type: 'string', default: '2,3' },
      'row-groups': { type: 'string', default: '1,4' },
      fresh: { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
    },
  })
  requireSharedModels()
  const [bench] = findModels([values.model])
  const model = QUALITY_MODELS.find(({ name }) => name === values.model)
  if (!bench || !model) throw new Error(`no model ${values.model}; there are ${QUALITY_MODELS.map(({ name }) => name)}`)
  const folder = join(OUT, 'jlcmMapping')
  mkdirSync(folder, { recursive: true })
  const output = join(folder, 'candidate.onnx')
  const kept = join(folder, `${values.model}.json`)
  const judge = await openJudge(bench, model.batch)
  const runs: Run[] = existsSync(kept) && !values.fresh ? JSON.parse(readFileSync(kept, 'utf8')) : []
  for (const bits of values.bits.split(',').map(Number) as Run['bits'][]) {
    for (const rowGroups of values['row-groups'].split(',').map(Number)) {
      for (const mapping of MAPPINGS) {
        if (runs.some((run) => run.bits === bits && run.rowGroups === rowGroups && run.mapping === mapping)) continue
        const settings = { method: 'codebook', codebook: 'jlcm', accuracyLevel: 0, verify: false, force: true } as const
        const config = { ...model.calibration, ...settings, samples: SAMPLES, bits, rowGroups, mapping }
        const report = await quantizeModel(bench.path, output, config)
        const run = { bits, rowGroups, mapping, figures: await judge.judge(output), error: meanError(report) }
        runs.push({ ...run, seconds: report.seconds })
        writeFileSync(kept, JSON.stringify(runs, undefined, 1))
        const { task, kl } = run.figures
        console.log(`${bits} bits, ${rowGroups} tables, ${mapping}: ${task.toFixed(3)}, KL ${kl!.toPrecision(4)}`)
      }
    }
  }
  rmSync(output, { force: true })
  runs.sort((a, b) => a.bits - b.bits || a.rowGroups - b.rowGroups)
  const metric = bench.task?.name ?? 'task'
  const markdown = [
    '## How indices of JLCM are found',
    `${values.model}, \`--codebook jlcm\` with that many tables in a layer, all layers, ${SAMPLES} samples, weights only: activations stay ` +
      'float. Damping, order and drift are chosen by descent for all; each starts from the column recurrence, and scales and tables ' +
      'are refitted in the end. proximal: the distance-weighted update of Yvinec et al. (2023) on mixtures of levels; softmax: the plain ' +
      'gradient; descent: coordinate descent on the indices. Where gradients do not lower the objective of a layer, it stays ' +
      'as the recurrence left it. KL: mean over positions of KL(float ‖ quantized), nats, on evaluation data; layer error: ' +
      'output error on held-out samples over that of plain rounding to tables, geometric mean over the layers. ' +
      `Float: ${judge.float.task.toFixed(3)}. ${machineLine()}.`,
    table(runs, metric),
  ].join('\n\n')
  console.log(markdown)
  if (values.render) writeSection('jlcmMapping', markdown)
}

await runBenchmark(main)
