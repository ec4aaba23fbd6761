/** @file The human form of an analysis. */
import type { AnalyzeReport, WidthFigures } from '../report.ts'
import { leftAloneText } from './leftAloneText.ts'
import { sensitivityText } from './sensitivityText.ts'
import { bytesText, countText, figureText, percentText, shapeText, textTable } from './textTable.ts'

/** @returns the layers, stored size and error of each at every width, what can't be quantized, totals, and what was measured. */
export function analyzeText(report: AnalyzeReport): string {
  const parts = report.model === undefined ? [] : tableParts(report, report.model)
  if (report.analysis !== undefined) parts.push(sensitivityText(report.analysis))
  return parts.join('\n\n')
}

function tableParts(report: AnalyzeReport, model: NonNullable<AnalyzeReport['model']>): string[] {
  const { layers, leftAlone, totals } = report
  const opsets = Object.entries(model.opsets).map(([domain, version]) => `${domain || 'ai.onnx'} ${version}`)
  const parts = [
    `${model.path}: ${bytesText(model.totalBytes)}, IR ${model.irVersion}, opset ${opsets.join(', ')}`,
    textTable(
      ['layer', '<operator', '<shape', '<type', 'bytes', 'share', 'MACs'],
      layers.map((layer) => [
        layer.name,
        layer.operators.join('+'),
        shapeText(layer.shape),
        layer.elementType,
        bytesText(layer.bytes),
        percentText(layer.shareOfBytes),
        layer.macs === undefined ? '-' : countText(layer.macs.count) + (layer.macs.perPosition ? '/pos' : ''),
      ]),
    ),
    `stored size at each width, ${report.groupSize === 'channel' ? 'one scale per channel' : `groups of ${report.groupSize}`}`,
    widthTable(report, (figures) => bytesText(figures.storedBytes)),
    'relative squared error of round-to-nearest',
    widthTable(report, (figures) => figureText(figures.relativeError)),
  ]
  if (leftAlone.length > 0) parts.push(leftAloneText(leftAlone))
  parts.push(
    `${layers.length} layers with ${countText(totals.weights)} weights in ${bytesText(totals.weightBytes)}; ` +
      `left alone ${bytesText(totals.leftAloneBytes)}; graph and other tensors ${bytesText(totals.otherBytes)}`,
  )
  return parts
}

function widthTable(report: AnalyzeReport, cell: (figures: WidthFigures) => string): string {
  const { layers, totals } = report
  const rows = layers.map((layer) => [layer.name, ...layer.widths.map(cell)])
  return textTable(
    ['layer', ...totals.widths.map(({ bits }) => `${bits} bit`)],
    [...rows, ['all layers', ...totals.widths.map(cell)]],
  )
}
