/** @file Codes and tables of a layer learned by gradient descent, as a step of the solver. */
import { type Descent, lossOf } from '../gptq/descent.ts'
import { total } from '../gptq/layer.ts'
import type { Mapping } from './codebookForms.ts'
import { type CodebookLayer, tableLengthOf } from './codebookLayer.ts'
import type { MappingFlavour } from './softGradient.ts'
import { softMapping } from './softMapping.ts'
import { takeRowInPlace, tryLayer } from './trial.ts'

const FLAVOURS: Readonly<Record<Exclude<Mapping, 'descent'>, MappingFlavour>> = {
  proximal: 'proximal',
  softmax: 'plain',
}
/** Gradient steps, and how far logits move in one: the same for both flavours, tuned for neither. */
const STEPS = 200
const RATE = 0.1
/** Levels are 8-bit integers, the same on both sides of zero. */
const LARGEST = 127

/**
 * Learn codes and tables from those that the layer has, scales as they are. Levels are rounded to integers; the layer changes
 * only where its loss falls.
 * @returns true where it changed.
 * @throws RangeError for codes of several weights.
 * @throws QtoolError `interrupted` when the signal aborts.
 */
export async function learnMapping(
  descent: Descent<CodebookLayer>,
  mapping: Exclude<Mapping, 'descent'>,
): Promise<boolean> {
  const { layer, damped, means } = descent
  const { rows, cols, coding, codes, tables, target, tableOf, groupSize, scales } = layer
  if (coding.kind !== 'scalar') throw new RangeError(`mapping ${mapping}: wanted scalar codes, found ${coding.kind}`)
  const before = { codes: codes.slice(), tables: tables.slice() }
  const shape = { rows, cols, entries: tableLengthOf(layer), groupSize }
  const problem = { ...shape, target, hessian: damped, tableOf, scales, tables: Float64Array.from(tables) }
  const settings = { flavour: FLAVOURS[mapping], steps: STEPS, rate: RATE, codes: before.codes }
  const learned = await softMapping(problem, settings, means)
  codes.set(learned.codes)
  tables.set(learned.tables.map((level) => Math.min(LARGEST, Math.max(-LARGEST, Math.round(level)))))
  const trial = await tryLayer(descent)
  if (total(trial.losses) < lossOf(descent)) {
    for (let row = 0; row < rows; row++) takeRowInPlace(descent, trial, row)
    return true
  }
  codes.set(before.codes)
  tables.set(before.tables)
  return false
}
