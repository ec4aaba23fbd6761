/** @file What a measurement on data came to, as text: losses of layers alone, who predicts well, blocks. */
import type { AnalysisReport } from '../report.ts'
import { printable } from './terminal.ts'
import { figureText, textTable } from './textTable.ts'

type MeasuredLayer = AnalysisReport['layers'][number]

const LOSSES = {
  kl: 'KL to the original in nats',
  relative: 'squared error relative to the outputs of the original',
} as const

/** @returns sections: losses by width, agreement and blocks where there are any, where the file is. */
export function sensitivityText(analysis: AnalysisReport): string {
  const { agreements, accuracy, blocks, samples, layers, path } = analysis
  const parts = [
    `loss of the model with one layer quantized (${LOSSES[analysis.metric]}), the most sensitive first`,
    lossTable(layers),
  ]
  if (agreements.length > 0) {
    parts.push('how well sensitivities predict the loss of drawn configurations (1 is best)')
    parts.push(
      textTable(
        ['sensitivity', 'R²', 'rank correlation'],
        agreements.map(({ sensitivity, rSquared, spearman }) => [
          sensitivity,
          figureText(rSquared),
          figureText(spearman),
        ]),
      ),
    )
  }
  if (blocks.length > 0) {
    parts.push('blocks')
    parts.push(
      textTable(
        ['block', 'layers', 'LIM', 'ZD'],
        blocks.map(({ name, layers: own, lim, zd }) => [name, String(own.length), figureText(lim), figureText(zd)]),
      ),
    )
  }
  if (accuracy !== undefined) {
    const { samples: labelled, floatRight } = accuracy
    parts.push(`the original gets ${floatRight} of ${labelled} held-out samples with a label right`)
  }
  const where = path === undefined ? 'not written: -o FILE saves it for later budgets' : `written to ${path}`
  parts.push(
    printable(
      `${layers.length} layers measured on ${samples.heldOut} held-out samples, solved on ${samples.fitted}; ${where}`,
    ),
  )
  return parts.join('\n\n')
}

const columnOf = ({ bits, codebook }: MeasuredLayer['candidates'][number]) => `${bits} bit${codebook ? ' tables' : ''}`

/** Per layer the least loss of each width, and the standard error at the least width. */
function lossTable(layers: readonly MeasuredLayer[]): string {
  const all = layers.flatMap(({ candidates }) => candidates)
  const widths = [...new Set(all.map(columnOf))].sort((a, b) => Number.parseInt(b, 10) - Number.parseInt(a, 10))
  const least = widths.filter((width) => !width.includes('tables')).at(-1) ?? widths.at(-1)
  const bestAt = ({ candidates }: MeasuredLayer, width: string | undefined) =>
    candidates
      .filter((candidate) => columnOf(candidate) === width)
      .reduce<MeasuredLayer['candidates'][number] | undefined>(
        (best, candidate) => (best === undefined || candidate.loss < best.loss ? candidate : best),
        undefined,
      )
  // A layer that is fixed at a larger width comes last.
  const weight = (layer: MeasuredLayer) => bestAt(layer, least)?.loss ?? Number.NEGATIVE_INFINITY
  const sorted = [...layers].sort((a, b) => {
    const [x, y] = [weight(a), weight(b)]
    return x === y ? 0 : y > x ? 1 : -1
  })
  const rows = sorted.map((layer) => [
    layer.name,
    ...widths.map((width) => figureText(bestAt(layer, width)?.loss)),
    figureText(bestAt(layer, least)?.standardError),
  ])
  return textTable(['layer', ...widths, `± at ${least ?? '-'}`], rows)
}
