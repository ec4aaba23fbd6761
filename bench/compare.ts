/**
 * @file Quality at equal settings, without data: qtool beside onnxruntime's own quantizers.
 *
 * `npx tsx bench/compare.ts [--python PATH] [--models A,B] [--bits 4] [--group-sizes 32,128] [--render]`
 *
 * onnxruntime's quantizers know MatMul only, so qtool is held to the same weights; a last row shows it on all it can.
 * Every model is judged by `qtool eval`, whoever wrote it.
 */
import { mkdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { EvalReport } from '../src/report.ts'
import { prepareData } from './data.ts'
import { runMeasured } from './measure.ts'
import { type BenchModel, findModels } from './modelList.ts'
import { OUT, ROOT, requireCli, requireSharedModels, runBenchmark } from './paths.ts'
import { analyze, evaluate, QtoolFailure, quantize } from './qtool.ts'
import { formatBytes, machineLine, markdownTable, writeSection } from './results.ts'
import { stsPearson } from './sts.ts'

const LIMIT_SECONDS = 180
const PEER_ALGORITHMS = ['symmetric', 'asymmetric', 'k_quant', 'hqq'] as const
/** Exit status of peer_quantize.py when a package is missing. */
const CANNOT_RUN = 3

interface Settings {
  readonly bits: string
  readonly groupSize: string
}

/** Writes a quantized model to `output`. */
interface Contestant {
  readonly name: string
  /** @returns why there is no output, or nothing. */
  readonly make: (model: BenchModel, output: string, settings: Settings) => Promise<string | undefined>
}

function peer(python: string, algorithm: string): Contestant {
  const script = join(ROOT, 'bench', 'peer_quantize.py')
  return {
    name: `onnxruntime ${algorithm}`,
    make: async ({ path }, output, { bits, groupSize }) => {
      const options = ['--algorithm', algorithm, '--bits', bits, '--block-size', groupSize]
      const { status, stderr } = await runMeasured([python, script, path, output, ...options], LIMIT_SECONDS)
      if (status === 0) return undefined
      const lastLine = stderr.trim().split('\n').at(-1) ?? ''
      return status === CANNOT_RUN ? `skipped: ${lastLine}` : `failed: ${lastLine}`
    },
  }
}

/** `--layer NAME=skip` for every layer that is not a plain MatMul. */
async function skipOthers(model: BenchModel): Promise<string[]> {
  const { layers } = await analyze([model.path], LIMIT_SECONDS)
  const others = layers.filter(({ operators }) => operators.length !== 1 || operators[0] !== 'MatMul')
  return others.flatMap(({ name }) => ['--layer', `${name}=skip`])
}

function qtool(method: 'rtn' | 'auto', scope: 'MatMul' | 'all layers'): Contestant {
  return {
    name: `qtool ${method}, ${scope}`,
    make: async (model, output, { bits, groupSize }) => {
      const flags = ['--bits', bits, '--group-size', groupSize, '--method', method, '--force']
      const skips = scope === 'MatMul' ? await skipOthers(model) : []
      try {
        await quantize([model.path, '-o', output, ...flags, ...skips], LIMIT_SECONDS)
        return undefined
      } catch (error) {
        if (error instanceof QtoolFailure) return `failed: ${error.message}`
        throw error
      }
    },
  }
}

async function taskFigure(model: BenchModel, path: string, report: EvalReport): Promise<string> {
  if (model.task?.name === 'STS-B Pearson') return (await stsPearson(path)).pearson.toFixed(4)
  return report.metrics[0]?.candidate.toFixed(4) ?? '–'
}

async function row(model: BenchModel, contestant: Contestant, settings: Settings): Promise<string[]> {
  const folder = join(OUT, 'compare')
  mkdirSync(folder, { recursive: true })
  const output = join(folder, 'candidate.onnx')
  rmSync(output, { force: true })
  const head = [model.name, settings.groupSize, contestant.name]
  const refused = await contestant.make(model, output, settings)
  if (refused !== undefined) return [...head, refused, '', '', '']
  const data = prepareData(model.data)
  const samples = model.samples > 0 ? ['--samples', String(model.samples)] : []
  const report = await evaluate(
    [model.path, output, '--data', data.inputs, ...samples, '--runs', '5', ...model.options],
    LIMIT_SECONDS,
  )
  const main = report.outputs.find(({ kl }) => kl) ?? report.outputs[0]!
  return [
    ...head,
    formatBytes(statSync(output).size),
    main.kl ? main.kl.mean.toFixed(5) : '–',
    main.sqnr?.toFixed(2) ?? '∞',
    await taskFigure(model, output, report),
  ]
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      python: { type: 'string' },
      models: { type: 'string', default: 'lm-3m,stories260K,char-lstm,use-lite' },
      bits: { type: 'string', default: '4' },
      'group-sizes': { type: 'string', default: '32,128' },
      render: { type: 'boolean', default: false },
    },
  })
  requireCli()
  requireSharedModels()
  const { python } = values
  if (python === undefined) console.error('no peer: give --python PATH of a Python that has onnxruntime and onnx')
  const contestants = [
    ...(python === undefined ? [] : PEER_ALGORITHMS.map((algorithm) => peer(python, algorithm))),
    qtool('rtn', 'MatMul'),
    qtool('auto', 'MatMul'),
    qtool('auto', 'all layers'),
  ]
  const rows: string[][] = []
  for (const model of findModels(values.models.split(','))) {
    for (const groupSize of values['group-sizes'].split(',')) {
      for (const contestant of contestants) {
        const cells = await row(model, contestant, { bits: values.bits, groupSize })
        console.error(cells.join('  '))
        rows.push(cells)
      }
    }
  }
  const table = markdownTable(
    ['model', 'group', 'quantizer', 'bytes', 'KL nats', 'SQNR dB', 'perplexity or Pearson'],
    rows,
  )
  const markdown = `## Beside onnxruntime's quantizers\n\n${values.bits} bits, int8 activations (accuracy level 4), no data. ${machineLine()}.\n\n${table}`
  console.log(markdown)
  if (values.render) writeSection('compare', markdown)
}

await runBenchmark(main)
