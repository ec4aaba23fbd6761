/** @file The human form of what quantize did, or would do. */
import type { CalibrationReport, LayerCalibration, QuantizedLayer, QuantizeReport } from '../report.ts'
import { allocationText } from './allocationText.ts'
import { leftAloneText } from './leftAloneText.ts'
import { rsqText } from './rsqText.ts'
import { printable } from './terminal.ts'
import { bytesText, countText, figureText, shapeText, textTable } from './textTable.ts'

/** @returns the plan layer by layer, notes, what stayed as it was, and the totals. */
export function quantizeText(report: QuantizeReport): string {
  const { layers, leftAlone, calibration, allocation, rsq } = report
  const parts: string[] = []
  if (layers.length > 0) parts.push(layersText(layers, calibration !== undefined))
  const notes = notesText(layers)
  if (notes !== '') parts.push(notes)
  if (leftAlone.length > 0) parts.push(leftAloneText(leftAlone))
  if (calibration !== undefined && calibration.outputs.length > 0) parts.push(outputsText(calibration))
  if (rsq !== undefined) parts.push(rsqText(rsq))
  if (allocation !== undefined) parts.push(allocationText(allocation))
  parts.push(totalsText(report))
  return parts.filter((part) => part !== '').join('\n\n')
}

function layersText(layers: readonly QuantizedLayer[], calibrated: boolean): string {
  const levels = layers.some(({ codebook }) => codebook) ? '<levels' : '<grid'
  const heads = ['layer', '<operator', '<shape', 'bits', 'group', levels, 'bpw', 'stored', 'error']
  const rows = layers.map((layer) => [
    layer.name,
    layer.operators.join('+'),
    shapeText(layer.shape),
    String(layer.bits),
    String(layer.groupSize),
    levelsText(layer),
    layer.bitsPerWeight.toFixed(2),
    bytesText(layer.storedBytes),
    figureText(layer.relativeError),
    ...(calibrated ? [solverText(layer.calibration)] : []),
  ])
  return textTable(calibrated ? [...heads, '<gptq α'] : heads, rows)
}

const ORDERS: Readonly<Record<NonNullable<LayerCalibration['order']>, string>> = {
  natural: 'nat',
  activation: 'act',
  greedy: 'greedy',
  'by row': 'row',
}

/** The share α of the drift and the order of the columns where the solver won; `rtn` where plain rounding did. */
function solverText(calibration: LayerCalibration | undefined): string {
  if (calibration === undefined) return '-'
  const { solver, alpha, order } = calibration
  if (solver === 'round-to-nearest') return 'rtn'
  return `${figureText(alpha)}${order === undefined ? '' : ` ${ORDERS[order]}`}`
}

function outputsText({ outputs }: CalibrationReport): string {
  return textTable(
    ['output on held-out samples', 'SQNR dB', 'KL, nats'],
    outputs.map(({ output, sqnr, kl }) => [
      output,
      Number.isFinite(sqnr) ? sqnr.toFixed(2) : figureText(sqnr),
      figureText(kl),
    ]),
  )
}

function calibrationLines(calibration: CalibrationReport, layers: readonly QuantizedLayer[]): string[] {
  const { source, samples, heldOut, positions, notes } = calibration
  const won = layers.filter((layer) => layer.calibration?.solver === 'gptq').length
  return [
    `calibrated on ${samples} samples (${heldOut} held out) from ${source}: ${countText(positions)} positions, ` +
      `gptq in ${won} of ${layers.length} layers`,
    ...notes.map((note) => `note: ${note}`),
  ]
}

const SCHEMES: Readonly<Record<NonNullable<QuantizedLayer['scheme']>, string>> = {
  symmetric: 'sym',
  'symmetric-full': 'sym-full',
  asymmetric: 'asym',
}

/** Which grid, or which tables: `trellis 12`, `jlcm 4 tables`. */
function levelsText(layer: QuantizedLayer): string {
  if (layer.method !== 'codebook') return `${SCHEMES[layer.scheme]} ${layer.method}`
  const { name, coding, tables } = layer.codebook
  if (coding.kind === 'trellis') return `${name} ${coding.window}`
  if (coding.kind === 'vector') return `${name} ${coding.dim}`
  return name === 'jlcm' ? `${name} ${tables} ${tables === 1 ? 'table' : 'tables'}` : name
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

/** More bytes than this at load are worth a note. */
const MUCH_AT_LOAD = 1e9

function loadingLines({ loading: { transientBytes, compactBytes } }: QuantizeReport): string[] {
  if (compactBytes !== undefined) {
    return [
      `unpacked: the compact form has ${bytesText(compactBytes)}, and takes up to ${bytesText(transientBytes)} more while it is loaded`,
    ]
  }
  if (transientBytes === 0) return []
  const note = transientBytes > MUCH_AT_LOAD ? '; --expand writes a larger model that does not' : ''
  return [`unpacking takes up to ${bytesText(transientBytes)} more memory while the model is loaded${note}`]
}

function totalsText(report: QuantizeReport): string {
  const { source, output, totals, layers, dryRun, opset, calibration, verified } = report
  const lines = [
    `${source.path} ${bytesText(source.totalBytes)} -> ${output.path || 'output'} ${bytesText(output.totalBytes)} ` +
      `(${totals.ratio.toFixed(3)}x, ${output.totalBytes} bytes)`,
    `${layers.length} layers, ${countText(totals.weights)} weights: mean width ${figureText(totals.meanBits)} bits, ` +
      `${figureText(totals.bitsPerWeight)} stored bits per weight, relative error ${figureText(totals.relativeError)}`,
  ]
  if (opset.from !== opset.to) lines.push(`opset raised from ${opset.from} to ${opset.to}`)
  lines.push(...loadingLines(report))
  if (calibration === undefined) lines.push('from the weights alone: no calibration data was used')
  else lines.push(...calibrationLines(calibration, layers))
  if (verified !== undefined) {
    const worst = Math.max(0, ...verified.map((layer) => layer.largestDifference))
    lines.push(
      `verified: onnxruntime computes ${verified.length} layers as decided (largest relative difference ${figureText(worst)})`,
    )
  }
  lines.push(dryRun ? 'dry run: nothing was written' : `written in ${report.seconds.toFixed(1)} s`)
  return lines.map((line) => printable(line)).join('\n')
}
