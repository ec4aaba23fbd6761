/** @file The tables of `codebook.ts`: grids of equal bytes, targets, groups of rows, smallest files. Times are next door. */
import { ABLATION, CODEBOOK_BITS, type CodebookBits, type CodebookModel } from './codebookModels.ts'
import type { CodebookResult, MeasuredCodebooks, MeasuredTimes } from './codebookRun.ts'
import { timesTable } from './codebookTimesTable.ts'
import { formatBytes, machineLine, markdownTable } from './results.ts'

/** A grid's file may be this much larger than the codebook's that it stands beside. */
export const BYTES_SLACK = 1.005
/** A metric is kept when it is worse by no more than this part of the float model's. */
const METRIC_SLACK = 0.01
/** 2.1, 3.1 and 4.1 stored bits per weight, as they round. Only targets below 1 ask for so few. */
const SCALE_BITS = 0.15

export interface KnownModel {
  readonly model: CodebookModel
  readonly measured: MeasuredCodebooks
  readonly times: MeasuredTimes | undefined
  readonly floatBytes: number
}

/** A file that was made. `bits` is its width, `arm` what made it. */
type File = Extract<CodebookResult, { loss: number }> & {
  readonly bits: CodebookBits
  readonly arm: string
  readonly isGrid: boolean
}

/** A codebook and the best grid that fits. */
interface Beside {
  readonly file: File
  readonly grid: File | undefined
  /** Grids that fit, of those that were measured. */
  readonly fitting: number
  readonly ratio: number | undefined
}

const NONE = '–'
const STALE = '*'

const taskDigits = (n: number): string => n.toFixed(n < 1 ? 4 : 3)
const staleMark = (result: { readonly state: string }, state: string): string => (result.state === state ? '' : STALE)
const gridName = ({ bits, arm }: File): string => {
  const [, groupSize, symmetric] = arm.split('/')
  return `${bits} bits, ${groupSize}, ${symmetric === 'yes' ? 'symmetric' : 'asymmetric'}`
}
const fileName = (file: File): string => (file.isGrid ? gridName(file) : `${file.bits} bits, ${file.arm}`)

/** In the order of the widths and codebooks, refusals left out. */
function filesOf({ results }: MeasuredCodebooks): File[] {
  return Object.entries(results).flatMap(([name, result]) => {
    const [bits, ...arm] = name.split('/')
    if ('failure' in result) return []
    return [{ ...result, bits: Number(bits) as CodebookBits, arm: arm.join('/'), isGrid: arm[0] === 'grid' }]
  })
}

const least = (files: readonly File[], of: (file: File) => number): File | undefined =>
  files.reduce<File | undefined>((best, file) => (best && of(best) <= of(file) ? best : file), undefined)

/**
 * Each codebook of a width with the best of all grids, of any width and group size, whose file is not larger. None as long as
 * no grid of its own width was measured: those of lower widths alone prove nothing.
 */
function besides(measured: MeasuredCodebooks, bits: CodebookBits): Beside[] {
  const files = filesOf(measured)
  const grids = files.filter(({ isGrid }) => isGrid)
  const codebooks = files.filter((file) => !file.isGrid && file.bits === bits)
  return codebooks
    .sort((a, b) => a.loss - b.loss)
    .map((file) => {
      const isComparable = grids.some((grid) => grid.bits === bits)
      const fitting = grids.filter(({ fileBytes }) => isComparable && fileBytes <= BYTES_SLACK * file.fileBytes)
      const grid = least(fitting, ({ loss }) => loss)
      return { file, grid, fitting: fitting.length, ratio: grid && file.loss / grid.loss }
    })
}

function equalBytesTable(models: readonly KnownModel[], state: string): string {
  const figures = ['bits/weight', 'file', 'loss', 'metric']
  const header = ['model', 'bits', 'codebook', ...figures, 'grids that fit', 'best of them', ...figures, 'ratio']
  const cells = (file: File | undefined): string[] =>
    file
      ? [
          file.bitsPerWeight.toFixed(3),
          formatBytes(file.fileBytes),
          file.loss.toPrecision(4) + staleMark(file, state),
          taskDigits(file.task),
        ]
      : figures.map(() => NONE)
  return markdownTable(
    header,
    models.flatMap(({ model, measured }) =>
      CODEBOOK_BITS.flatMap((bits) =>
        besides(measured, bits).map(({ file, grid, fitting, ratio }) => [
          ...[model.name, String(bits), file.arm, ...cells(file)],
          ...[String(fitting), grid ? gridName(grid) : 'none was measured', ...cells(grid)],
          ratio?.toFixed(3) ?? NONE,
        ]),
      ),
    ),
  )
}

/** The best codebook of each model and width by its ratio, and whether that is enough. */
function targetsTable(models: readonly KnownModel[]): string {
  const rows = models.flatMap(({ model, measured }) =>
    CODEBOOK_BITS.flatMap((bits) => {
      const limit = model.limits[bits]
      const scalesOf = ({ file }: Beside): boolean => (limit === 1 ? true : file.bitsPerWeight < bits + SCALE_BITS)
      const [best] = besides(measured, bits)
        .filter((beside) => beside.ratio !== undefined && scalesOf(beside))
        .sort((a, b) => a.ratio! - b.ratio!)
      if (!best) return []
      const { file, ratio } = best
      const met = ratio! <= limit ? 'yes' : 'no'
      return [[model.name, String(bits), file.arm, file.bitsPerWeight.toFixed(3), ratio!.toFixed(3), `≤ ${limit}`, met]]
    }),
  )
  if (rows.length === 0) return ''
  return markdownTable(['model', 'bits', 'best codebook', 'bits/weight', 'ratio', 'wanted', 'met'], rows)
}

/** Loss and stored bits per weight: one table for all rows, then more and more. */
function ablationTable(models: readonly KnownModel[]): string {
  const rows = models.flatMap(({ model, measured }) =>
    CODEBOOK_BITS.flatMap((bits) => {
      const known = ABLATION.map((arm) => filesOf(measured).find((file) => file.bits === bits && file.arm === arm))
      // One alone compares nothing.
      if (known.filter((file) => file).length < 2) return []
      const cells = known.map((file) =>
        file ? `${file.loss.toPrecision(4)} (${file.bitsPerWeight.toFixed(3)})` : NONE,
      )
      return [[model.name, String(bits), ...cells]]
    }),
  )
  if (rows.length === 0) return ''
  return markdownTable(['model', 'bits', 'one table', '4 groups', '16 groups', 'auto', 'table per row'], rows)
}

/** Perplexity falls with quality, all else grows. */
function keepsMetric({ task, float }: MeasuredCodebooks, file: File): boolean {
  return task === 'perplexity' ? file.task <= (1 + METRIC_SLACK) * float : file.task >= (1 - METRIC_SLACK) * float
}

function smallestTable(models: readonly KnownModel[]): string {
  const figures = ['file', 'of float', 'metric']
  return markdownTable(
    ['model', 'metric', 'float', 'float file', 'smallest codebook', ...figures, 'smallest grid', ...figures],
    models.map(({ model, measured, floatBytes }) => {
      const kept = filesOf(measured).filter((file) => keepsMetric(measured, file))
      const cells = [false, true].flatMap((isGrid) => {
        const file = least(
          kept.filter((one) => one.isGrid === isGrid),
          ({ fileBytes }) => fileBytes,
        )
        if (!file) return ['none', ...figures.map(() => NONE)]
        const share = `${((100 * file.fileBytes) / floatBytes).toFixed(1)} %`
        return [fileName(file), formatBytes(file.fileBytes), share, taskDigits(file.task)]
      })
      return [model.name, measured.task, taskDigits(measured.float), formatBytes(floatBytes), ...cells]
    }),
  )
}

function failures(models: readonly KnownModel[]): string {
  return models
    .flatMap(({ model, measured }) =>
      Object.entries(measured.results).flatMap(([name, result]) =>
        'failure' in result ? [`- ${model.name}, ${name}: refused: ${result.failure}`] : [],
      ),
    )
    .join('\n')
}

/** The section of RESULTS.md. @param state of the source, results of others are marked. */
export function renderCodebooks(models: readonly KnownModel[], state: string): string {
  const [targets, ablation, times, refused] = [targetsTable, ablationTable, timesTable, failures].map((table) =>
    table(models),
  )
  return [
    '## What codebooks are worth',
    'Codebooks: `--method codebook`, a scale per output. Grids: `--method gptq`, group sizes channel, 256, 128, 64 and 32, as far ' +
      'as they were measured. All layers; the same calibration data; weights only, activations stay float; judged on evaluation data ' +
      'that calibration never saw. Beside each codebook stands the grid of the least loss, on evaluation data and of any width, whose file is larger by no ' +
      `more than ${(100 * (BYTES_SLACK - 1)).toFixed(1)} %. Files are the whole output, with the graph that looks the tables up. Loss: KL(float ‖ quantized) per position in nats, or ` +
      `relative squared error. ${STALE}: of another state of the source. ${machineLine()}.`,
    equalBytesTable(models, state),
    ...(targets
      ? [
          'The least ratio of each width. Where less than 1 is wanted, of codebooks with at most .1 bits a weight of scales and tables, rounded.',
          targets,
        ]
      : []),
    ...(ablation ? ['JLCM by the number of tables: loss, and stored bits per weight.', ablation] : []),
    'The smallest of all these files that keeps the metric to 1 % of the float model’s.',
    smallestTable(models),
    ...(times ? [times] : []),
    ...(refused ? [refused] : []),
  ].join('\n\n')
}
