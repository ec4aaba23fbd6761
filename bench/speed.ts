/**
 * @file Wall time and peak memory of 4-bit round-to-nearest on a large model, qtool beside onnxruntime's own quantizer.
 *
 * `npx tsx bench/speed.ts [--python PATH] [--model PATH] [--runs N] [--only NAME,NAME] [--render]`
 *
 * Without --model it writes a model of 1 GiB (16 MatMuls 4096×4096, external data) to bench/out/speed. The programs take
 * turns, so that a slow phase of the machine meets all of them; the model's files are read once before, into the page cache.
 */
import { execFileSync } from 'node:child_process'
import { createReadStream, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { writeBigModel } from './bigModel.ts'
import { type Measured, median, peakMemorySource, runMeasured } from './measure.ts'
import { OUT, requireCli, requirePath, runBenchmark } from './paths.ts'
import { formatBytes, machineLine, markdownTable, writeSection } from './results.ts'

const LAYERS = 16
const WIDTH = 4096
const LIMIT_SECONDS = 600

interface Contestant {
  readonly name: string
  readonly command: (model: string, output: string) => readonly string[]
}

function qtool(name: string, cli: string, options: readonly string[]): Contestant {
  return {
    name,
    command: (model, output) => [
      process.execPath,
      cli,
      'quantize',
      model,
      '-o',
      output,
      '--bits',
      '4',
      '--group-size',
      '32',
      ...options,
      '--json',
    ],
  }
}

function onnxruntimeQuantizer(python: string): Contestant {
  const version = execFileSync(python, ['-c', 'import onnxruntime; print(onnxruntime.__version__)'], {
    encoding: 'utf8',
  })
  return {
    name: `onnxruntime ${version.trim()} matmul_nbits_quantizer`,
    command: (model, output) =>
      [
        python,
        '-m',
        'onnxruntime.quantization.matmul_nbits_quantizer',
        '--input_model',
        model,
        '--output_model',
        output,
      ].concat(['--bits', '4', '--block_size', '32']),
  }
}

/** The peer, or nothing with a line that says why. */
function findPeer(python: string | undefined): Contestant[] {
  if (python === undefined) {
    console.error('no peer: give --python PATH of a Python that has onnxruntime and onnx')
    return []
  }
  try {
    return [onnxruntimeQuantizer(python)]
  } catch (error) {
    console.error(`no peer: ${python} cannot import onnxruntime (${(error as Error).message.split('\n')[0]})`)
    return []
  }
}

/** The model and the files beside it that begin with its name. */
function modelFiles(path: string): string[] {
  const folder = dirname(path)
  return readdirSync(folder)
    .filter((file) => file.startsWith(basename(path)))
    .map((file) => join(folder, file))
}

const totalBytes = (files: readonly string[]): number => files.reduce((sum, file) => sum + statSync(file).size, 0)

async function readIntoCache(files: readonly string[]): Promise<void> {
  for (const file of files) for await (const _ of createReadStream(file, { highWaterMark: 1 << 22 }));
}

interface Run {
  readonly measured: Measured
  readonly outputBytes: number
}

async function runOnce(contestant: Contestant, model: string): Promise<Run> {
  const folder = join(OUT, 'speed', 'quantized')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const output = join(folder, 'model.onnx')
  const measured = await runMeasured(contestant.command(model, output), LIMIT_SECONDS)
  if (measured.status !== 0) {
    throw new Error(`${contestant.name}: exit status ${measured.status}\n${measured.stderr.slice(-2000)}`)
  }
  const run = { measured, outputBytes: totalBytes(modelFiles(output)) }
  rmSync(folder, { recursive: true, force: true })
  return run
}

function tableRow(name: string, runs: readonly Run[], modelBytes: number): string[] {
  const seconds = runs.map((run) => run.measured.seconds)
  const peaks = runs.flatMap((run) => run.measured.peakBytes ?? [])
  const peak = peaks.length ? Math.max(...peaks) : undefined
  return [
    name,
    `${median(seconds).toFixed(2)} (${Math.min(...seconds).toFixed(2)}–${Math.max(...seconds).toFixed(2)})`,
    peak === undefined ? '–' : formatBytes(peak),
    peak === undefined ? '–' : (peak / modelBytes).toFixed(2),
    formatBytes(runs[0]!.outputBytes),
  ]
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      python: { type: 'string' },
      model: { type: 'string' },
      runs: { type: 'string', default: '3' },
      only: { type: 'string' },
      render: { type: 'boolean', default: false },
    },
  })
  const cli = requireCli()
  const model = values.model ?? join(OUT, 'speed', 'model.onnx')
  if (values.model === undefined) writeBigModel(model, LAYERS, WIDTH)
  requirePath(model, 'give --model the path of an .onnx file')

  const wanted = values.only?.split(',')
  const contestants = [
    qtool('qtool rtn --no-verify', cli, ['--method', 'rtn', '--no-verify']),
    qtool('qtool rtn', cli, ['--method', 'rtn']),
    qtool('qtool auto --no-verify', cli, ['--method', 'auto', '--no-verify']),
    qtool('qtool auto', cli, ['--method', 'auto']),
    ...findPeer(values.python),
  ].filter(({ name }) => wanted === undefined || wanted.includes(name))

  const files = modelFiles(model)
  const modelBytes = totalBytes(files)
  await readIntoCache(files)
  const runs = new Map<string, Run[]>(contestants.map(({ name }) => [name, []]))
  for (let turn = 0; turn < Number(values.runs); turn++) {
    for (const contestant of contestants) {
      const run = await runOnce(contestant, model)
      runs.get(contestant.name)!.push(run)
      const peak = run.measured.peakBytes
      console.error(
        `${turn + 1}/${values.runs} ${contestant.name}: ${run.measured.seconds.toFixed(2)} s, ${peak === undefined ? '–' : formatBytes(peak)}`,
      )
    }
  }

  const header = ['program', 'seconds, median (range)', 'peak memory', '÷ model', 'output']
  const table = markdownTable(
    header,
    [...runs].map(([name, list]) => tableRow(name, list, modelBytes)),
  )
  const caption = `${basename(model)}, ${formatBytes(modelBytes)}; 4 bits, groups of 32; ${values.runs} runs each, in turns. ${machineLine()}. Memory: ${peakMemorySource()}.`
  const markdown = `${caption}\n\n${table}`
  console.log(markdown)
  if (values.render) writeSection(values.model === undefined ? 'speed' : `speed ${basename(dirname(model))}`, markdown)
}

await runBenchmark(main)
