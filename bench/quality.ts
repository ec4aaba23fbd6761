/**
 * @file What calibration is worth: weights chosen on data beside round-to-nearest and the best without data, on the same
 * widths and the same stored bytes, judged on data that calibration never saw. Activations stay float.
 *
 * `npx tsx bench/quality.ts [--only NAME,NAME] [--arms rtn,auto,gptq] [--gptq JSON] [--render]`
 *
 * NAME is a model or the beginning of a row's name: `lm-3m`, `lm-3m/4b`, `lm-3m/4b/g32/MatMul`. `--gptq` adds options to
 * the calibrated arm, for example `{"holdout":0.1}`.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { QuantizeConfig } from '../src/config.ts'
import { QtoolError } from '../src/errors.ts'
import { quantizeModel } from '../src/pipeline.ts'
import type { QuantizeReport } from '../src/report.ts'
import { type BenchModel, findModels } from './modelList.ts'
import { OUT, requireSharedModels, runBenchmark } from './paths.ts'
import { type Figures, openJudge } from './qualityJudge.ts'
import { QUALITY_MODELS, type QualityModel, type QualityRow, rowName, scopeLayers } from './qualityModels.ts'
import { type ArmResult, type MeasuredRow, renderQuality } from './qualityTables.ts'
import { writeSection } from './results.ts'

/** Asymmetric grids in every arm but `auto`, which may choose: so the first and the last store the same bytes. */
const ARMS = {
  rtn: () => ({ method: 'rtn', symmetric: 'no' }),
  auto: () => ({ method: 'auto' }),
  gptq: ({ calibration }: QualityModel) => ({ method: 'gptq', symmetric: 'no', ...calibration }),
} as const satisfies Record<string, (model: QualityModel) => Partial<QuantizeConfig>>

type Arm = keyof typeof ARMS

const storedBytes = ({ layers }: QuantizeReport): number => layers.reduce((sum, layer) => sum + layer.storedBytes, 0)

async function measureArm(
  path: string,
  config: Partial<QuantizeConfig>,
  judge: (path: string) => Promise<Figures>,
): Promise<ArmResult> {
  const folder = join(OUT, 'quality')
  const output = join(folder, 'candidate.onnx')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  try {
    const report = await quantizeModel(path, output, config)
    return {
      figures: await judge(output),
      storedBytes: storedBytes(report),
      bitsPerWeight: report.totals.bitsPerWeight,
      seconds: report.seconds,
      calibration: report.calibration,
      rounded: report.layers.filter((layer) => layer.calibration?.solver === 'round-to-nearest').length,
      layers: report.layers.length,
    }
  } catch (error) {
    if (!(error instanceof QtoolError)) throw error
    return { failure: error.message }
  }
}

async function measureRow(
  bench: BenchModel,
  model: QualityModel,
  row: QualityRow,
  arms: readonly Arm[],
  extra: Partial<QuantizeConfig>,
  judge: Awaited<ReturnType<typeof openJudge>>,
): Promise<MeasuredRow> {
  const name = rowName(model, row)
  const results: Partial<Record<Arm, ArmResult>> = {}
  for (const arm of arms) {
    const config: Partial<QuantizeConfig> = {
      bits: row.bits,
      groupSize: row.groupSize,
      accuracyLevel: 0,
      layers: scopeLayers(bench.path, row.scope),
      ...ARMS[arm](model),
      ...(arm === 'gptq' ? extra : {}),
    }
    const result = await measureArm(bench.path, config, judge.judge)
    results[arm] = result
    console.error(`${name} ${arm}: ${describe(result)}`)
  }
  return { name, metric: bench.task!.name, row, float: judge.float, ...results }
}

function describe(result: ArmResult): string {
  if ('failure' in result) return result.failure
  const { figures, bitsPerWeight, seconds } = result
  const kl = figures.kl === undefined ? '' : `, KL ${figures.kl.toFixed(5)}`
  return `${figures.task.toFixed(4)}${kl}, ${bitsPerWeight.toFixed(3)} bits/weight, ${seconds.toFixed(1)} s`
}

const isWanted = (name: string, only: readonly string[] | undefined): boolean =>
  only === undefined || only.some((wanted) => name === wanted || name.startsWith(`${wanted}/`))

function readArms(text: string): Arm[] {
  return text.split(',').map((word) => {
    if (!Object.hasOwn(ARMS, word)) throw new Error(`--arms: ${word} is none of ${Object.keys(ARMS).join(', ')}`)
    return word as Arm
  })
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      arms: { type: 'string', default: Object.keys(ARMS).join(',') },
      gptq: { type: 'string', default: '{}' },
      render: { type: 'boolean', default: false },
    },
  })
  requireSharedModels()
  const arms = readArms(values.arms)
  const extra = JSON.parse(values.gptq) as Partial<QuantizeConfig>
  const only = values.only?.split(',')
  if (values.render && only) throw new Error('--render needs all rows: leave --only out')
  const started = performance.now()
  const measured: MeasuredRow[] = []
  for (const model of QUALITY_MODELS) {
    const rows = model.rows.filter((row) => isWanted(rowName(model, row), only))
    const [bench] = rows.length > 0 ? findModels([model.name]) : []
    if (bench === undefined) continue
    const judge = await openJudge(bench, model.batch)
    console.error(`${model.name} float: ${judge.float.task.toFixed(4)}`)
    for (const row of rows) measured.push(await measureRow(bench, model, row, arms, extra, judge))
  }
  if (measured.length === 0) throw new Error('--only names no row; rows are called like lm-3m/4b/g32/MatMul')
  const markdown = renderQuality(measured, (performance.now() - started) / 1000)
  console.log(markdown)
  if (values.render) writeSection('quality', markdown)
}

await runBenchmark(main)
