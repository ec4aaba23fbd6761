/**
 * @file Wall time and peak memory of a calibrated quantization of a large model, beside the time of the matrix products
 * that no such program can avoid, both measured in one run.
 *
 * `npx tsx bench/calibrationSpeed.ts [--model 300m|125m|PATH] [--python PATH] [--sequences 128] [--length 512]
 *   [--share 0.125] [--products-only] [--render]`
 *
 * 300m and 125m are made once, in bench/out, by `../shared/tools/make_big.py`, which needs a Python with numpy and onnx.
 * The products are measured before and after the run of the tool, on `--share` of their batches, and scaled up.
 */
import { existsSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { QUANTIZE_DEFAULTS } from '../src/config.ts'
import { encodeNpy } from '../src/data/npy.ts'
import { modelLayers } from '../src/onnx/layers.ts'
import { loadModel } from '../src/onnx/load.ts'
import { makeRandom } from '../src/random.ts'
import type { QuantizeReport } from '../src/report.ts'
import {
  countOperations,
  type LayerGroup,
  largestBlock,
  measureProducts,
  type ProductTimes,
} from './calibrationProducts.ts'
import { type Measured, peakMemorySource, runMeasured } from './measure.ts'
import { OUT, ROOT, requireCli, requirePath, runBenchmark } from './paths.ts'
import { formatBytes, machineLine, markdownTable, writeSection } from './results.ts'

/** A run that takes longer than this has missed its target by far. */
const LIMIT_SECONDS = 60 * 60
const RATIO_TARGET = 1.6
const MEMORY_FACTOR = 2
const MEMORY_ALLOWANCE = 600e6
const TOOLS = join(ROOT, '..', 'shared', 'tools')
const FOLDER = join(OUT, 'calibration')
const NONE = '–'

/** Path of the model; a preset is made when it is not there. @throws Missing without the maker. */
async function prepareModel(name: string, python: string): Promise<string> {
  if (name.endsWith('.onnx')) return requirePath(name, 'give --model the path of an .onnx file')
  const folder = join(FOLDER, name)
  const path = join(folder, 'model.onnx')
  if (existsSync(path)) return path
  requirePath(join(TOOLS, 'make_big.py'), 'the maker of large models is needed, or --model PATH')
  mkdirSync(folder, { recursive: true })
  console.error(`making ${name}`)
  const { status, stderr } = await runMeasured([python, '-B', 'make_big.py', folder, name], LIMIT_SECONDS, TOOLS)
  if (status === 0) return path
  rmSync(folder, { recursive: true, force: true })
  throw new Error(`make_big.py ${name}: exit status ${status}: ${stderr.trim().split('\n').at(-1)}`)
}

/** Token ids with the frequencies of a text (Zipf): [sequences, length], int64. */
function writeTokens(vocabulary: number, sequences: number, length: number): string {
  const random = makeRandom(0)
  const draw = () => BigInt(Math.min(vocabulary - 1, Math.floor(vocabulary ** random.uniform()) - 1))
  const data = BigInt64Array.from({ length: sequences * length }, draw)
  const path = join(FOLDER, 'tokens.npy')
  mkdirSync(FOLDER, { recursive: true })
  writeFileSync(path, encodeNpy({ dtype: 'int64', shape: [sequences, length], data }))
  return path
}

/** MatMuls by the tensor that they read, which is what statistics belong to, and the rows of the embedding. */
function readModel(path: string): { readonly groups: LayerGroup[]; readonly vocabulary: number } {
  const groups = new Map<string, LayerGroup>()
  let vocabulary = 0
  for (const { uses, dims, name } of modelLayers(loadModel(path).proto).layers) {
    const { node } = uses[0]!
    if (node.opType === 'Gather') vocabulary = Math.max(vocabulary, dims[0]!)
    if (node.opType !== 'MatMul') continue
    const [columns, rows] = dims as [number, number]
    const known = groups.get(node.input[0]!) ?? { columns, rows: 0, layers: [] }
    groups.set(node.input[0]!, { columns, rows: known.rows + rows, layers: [...known.layers, name] })
  }
  if (vocabulary === 0 || groups.size === 0) throw new Error(`${path}: wanted an embedding and MatMuls`)
  return { groups: [...groups.values()], vocabulary }
}

async function runTool(model: string, tokens: string, sequences: number): Promise<Measured> {
  const folder = join(FOLDER, 'quantized')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const options = ['--method', 'gptq', '--bits', '4', '--group-size', '32', '--samples', String(sequences), '--json']
  const command = [process.execPath, requireCli(), 'quantize', model, '-o', join(folder, 'model.onnx')]
  const measured = await runMeasured([...command, '--data', tokens, ...options], LIMIT_SECONDS)
  rmSync(folder, { recursive: true, force: true })
  if (measured.status === 0) return measured
  throw new Error(
    `qtool: exit status ${measured.status ?? `none after ${LIMIT_SECONDS} s`}\n${measured.stderr.slice(-2000)}`,
  )
}

const total = (times: ProductTimes): number => Object.values(times).reduce((sum, seconds) => sum + seconds, 0)

/** Mean of what was measured before and after the tool ran. */
function meanOf(before: ProductTimes, after: ProductTimes): ProductTimes {
  const entries = Object.entries(before).map(([name, seconds]) => [
    name,
    (seconds + after[name as keyof ProductTimes]) / 2,
  ])
  return Object.fromEntries(entries) as unknown as ProductTimes
}

const seconds = (value: number): string => value.toFixed(1)

interface Timing {
  readonly measured: Measured
  readonly before: ProductTimes
  readonly after: ProductTimes
  /** Floating-point operations of each part. */
  readonly operations: ProductTimes
}

function timeTable({ measured, before, after, operations }: Timing): string {
  const mean = meanOf(before, after)
  const part = (name: string, key: keyof ProductTimes) => [
    name,
    seconds(mean[key]),
    `${seconds(before[key])} / ${seconds(after[key])}`,
    (operations[key] / mean[key] / 1e9).toFixed(0),
  ]
  const fitted = total(mean) - QUANTIZE_DEFAULTS.holdout * mean.gram
  return markdownTable(
    ['what', 'seconds', 'before / after', 'GFLOP/s'],
    [
      part('Gram matrices of quantized and of float with quantized inputs', 'gram'),
      part('factorisation', 'factor'),
      part('updates of the recurrence and of one descent', 'updates'),
      part('two forward passes', 'forward'),
      ['all products', seconds(total(mean)), `${seconds(total(before))} / ${seconds(total(after))}`, ''],
      ['qtool quantize --method gptq', seconds(measured.seconds), '', ''],
      [
        `ratio (target ${RATIO_TARGET})`,
        `**${(measured.seconds / total(mean)).toFixed(2)}**`,
        `${(measured.seconds / fitted).toFixed(2)} with Gram matrices of fitted samples only`,
        '',
      ],
    ],
  )
}

function memoryTable(measured: Measured, groups: readonly LayerGroup[]): string {
  const block = largestBlock(groups)
  const allowed = MEMORY_FACTOR * (block.weightBytes + block.gramBytes) + MEMORY_ALLOWANCE
  const peak = measured.peakBytes
  return markdownTable(
    ['memory', 'bytes'],
    [
      [`weights of ${block.name}, float32`, formatBytes(block.weightBytes)],
      ['its Gram matrices, two a tensor that its layers read, float64', formatBytes(block.gramBytes)],
      [`target: ${MEMORY_FACTOR} × both + ${formatBytes(MEMORY_ALLOWANCE)}`, formatBytes(allowed)],
      ['peak of qtool', peak === undefined ? NONE : `**${formatBytes(peak)}**`],
      ['target met', peak === undefined ? NONE : peak <= allowed ? 'yes' : 'no'],
    ],
  )
}

/** What the report says of the calibration, in a line. */
function reportLine(stdout: string): string {
  const { calibration, layers, seconds: own, totals } = JSON.parse(stdout) as QuantizeReport
  if (!calibration) return 'The report says nothing of a calibration.'
  const rounded = layers.filter((layer) => layer.calibration?.solver === 'round-to-nearest').length
  const kl = calibration.outputs.find((output) => typeof output.kl === 'number')?.kl
  return (
    `Report: ${own.toFixed(1)} s, ${calibration.samples} samples (${calibration.heldOut} held out), ` +
    `${calibration.positions} positions, ${calibration.groups} groups in ${calibration.stages} stages, ${layers.length} layers ` +
    `(${rounded} kept rounding), ${totals.bitsPerWeight.toFixed(3)} bits/weight, held-out KL ${kl?.toPrecision(3) ?? NONE}.`
  )
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: '300m' },
      python: { type: 'string', default: 'python3' },
      sequences: { type: 'string', default: '128' },
      length: { type: 'string', default: '512' },
      share: { type: 'string', default: '0.125' },
      'products-only': { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
    },
  })
  requireCli()
  const [sequences, length, share] = [Number(values.sequences), Number(values.length), Number(values.share)]
  const model = await prepareModel(values.model, values.python)
  const { groups, vocabulary } = readModel(model)
  const tokens = writeTokens(vocabulary, sequences, length)
  const measure = () => measureProducts({ model, tokens, groups, sequences, length, share })

  const before = await measure()
  console.error(`products before: ${seconds(total(before))} s ${JSON.stringify(before)}`)
  if (values['products-only']) return
  const measured = await runTool(model, tokens, sequences)
  console.error(`qtool: ${seconds(measured.seconds)} s, ${formatBytes(measured.peakBytes ?? 0)}`)
  const after = await measure()
  console.error(`products after: ${seconds(total(after))} s`)

  const name = basename(dirname(model))
  const size = formatBytes(statSync(existsSync(`${model}.data`) ? `${model}.data` : model).size)
  const markdown = [
    '## Speed and memory of calibration',
    `${name}, ${size}; ${sequences} sequences of ${length} tokens; 4 bits, groups of 32. Products run in onnxruntime on all ` +
      `cores, before and after the tool, ${(100 * share).toFixed(1)} % of their batches, scaled up. ${machineLine()}. ` +
      `Memory: ${peakMemorySource()}.`,
    timeTable({ measured, before, after, operations: countOperations(groups, sequences * length) }),
    memoryTable(measured, groups),
    reportLine(measured.stdout),
  ].join('\n\n')
  console.log(markdown)
  if (values.render) writeSection(`calibration speed ${name}`, markdown)
}

await runBenchmark(main)
