/** @file The human form of what quantize did, or would do. */
import type { QuantizedLayer, QuantizeReport } from '../report.ts'
import { leftAloneText } from './leftAloneText.ts'
import { printable } from './terminal.ts'
import { bytesText, countText, figureText, shapeText, textTable } from './textTable.ts'

/** @returns the plan layer by layer, notes, what stayed as it was, and the totals. */
export function quantizeText(report: QuantizeReport): string {
  const { layers, leftAlone } = report
  const parts: string[] = []
  if (layers.length > 0) {
    parts.push(
      textTable(
        ['layer', '<operator', '<shape', 'bits', 'group', '<grid', 'bpw', 'stored', 'error'],
        layers.map((layer) => [
          layer.name,
          layer.operators.join('+'),
          shapeText(layer.shape),
          String(layer.bits),
          String(layer.groupSize),
          `${SCHEMES[layer.scheme]} ${layer.method}`,
          layer.bitsPerWeight.toFixed(2),
          bytesText(layer.storedBytes),
          figureText(layer.relativeError),
        ]),
      ),
    )
  }
  const notes = notesText(layers)
  if (notes !== '') parts.push(notes)
  if (leftAlone.length > 0) parts.push(leftAloneText(leftAlone))
  parts.push(totalsText(report))
  return parts.join('\n\n')
}

const SCHEMES: Readonly<Record<QuantizedLayer['scheme'], string>> = {
  symmetric: 'sym',
  'symmetric-full': 'sym-full',
  asymmetric: 'asym',
}

/** Each distinct note once, with the number of layers it is about, or the layer's name where it is one. */
function notesText(layers: readonly QuantizedLayer[]): string {
  const about = new Map<string, string[]>()
  for (const { name, notes } of layers) {
    for (const note of notes) about.set(note, [...(about.get(note) ?? []), name])
  }
  return [...about]
    .map(
      ([note, names]) =>
        `note (${names.length === 1 ? printable(names[0]!) : `${names.length} layers`}): ${printable(note)}`,
    )
    .join('\n')
}

function totalsText(report: QuantizeReport): string {
  const { source, output, totals, layers, dryRun, opset, verified } = report
  const lines = [
    `${source.path} ${bytesText(source.totalBytes)} -> ${output.path || 'output'} ${bytesText(output.totalBytes)} ` +
      `(${totals.ratio.toFixed(3)}x, ${output.totalBytes} bytes)`,
    `${layers.length} layers, ${countText(totals.weights)} weights: mean width ${figureText(totals.meanBits)} bits, ` +
      `${figureText(totals.bitsPerWeight)} stored bits per weight, relative error ${figureText(totals.relativeError)}`,
  ]
  if (opset.from !== opset.to) lines.push(`opset raised from ${opset.from} to ${opset.to}`)
  lines.push('from the weights alone: no calibration data was used')
  if (verified !== undefined) {
    const worst = Math.max(0, ...verified.map((layer) => layer.largestDifference))
    lines.push(
      `verified: onnxruntime computes ${verified.length} layers as decided (largest relative difference ${figureText(worst)})`,
    )
  }
  lines.push(dryRun ? 'dry run: nothing was written' : `written in ${report.seconds.toFixed(1)} s`)
  return lines.map((line) => printable(line)).join('\n')
}
