/** @file Which input and output of the candidate belongs to which of the reference. */
import type { FeedTensor, ModelInput } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import type { Session } from '../runtime/session.ts'
import { isFloatElement } from './numbers.ts'

export interface Pairing {
  /** Name in the reference → name in the candidate. */
  readonly inputs: ReadonlyMap<string, string>
  readonly outputs: ReadonlyMap<string, string>
  readonly warnings: readonly string[]
}

/**
 * Match by name; when the names differ but the numbers of values agree, by position with a warning.
 * @throws QtoolError `model` when something is missing or extra, an output is a number in one model and a whole number in
 *   the other, or there is no output to compare
 */
export function pairModels(reference: Session, candidate: Session): Pairing {
  const warnings: string[] = []
  const inputs = pairNames('input', reference.inputs, candidate.inputs, candidate.path, warnings)
  const outputs = pairNames('output', reference.outputs, candidate.outputs, candidate.path, warnings)
  if (outputs.size === 0) throw new QtoolError('model', `${reference.path}: no output is a tensor of numbers`)
  for (const name of reference.otherOutputs) {
    warnings.push(`output ${name} is not compared: it is not a tensor of numbers`)
  }
  for (const output of reference.outputs) {
    const name = outputs.get(output.name)!
    const other = candidate.outputs.find((o) => o.name === name)!
    if (isFloatElement(output.elementType) !== isFloatElement(other.elementType)) {
      throw new QtoolError(
        'model',
        `${candidate.path}: output ${name} is ${other.elementType}, but ${output.elementType} in the reference`,
      )
    }
  }
  return { inputs, outputs, warnings }
}

function pairNames(
  what: 'input' | 'output',
  reference: readonly ModelInput[],
  candidate: readonly ModelInput[],
  path: string,
  warnings: string[],
): Map<string, string> {
  const theirs = new Set(candidate.map((value) => value.name))
  const missing = reference.filter((value) => !theirs.has(value.name)).map((value) => value.name)
  if (reference.length === candidate.length && missing.length > 0) {
    warnings.push(
      `${what}s are matched by position, because the candidate calls them ${candidate.map((v) => v.name).join(', ')} ` +
        `and the reference ${reference.map((v) => v.name).join(', ')}`,
    )
    return new Map(reference.map((value, i) => [value.name, candidate[i]!.name]))
  }
  const ours = new Set(reference.map((value) => value.name))
  const extra = candidate.filter((value) => !ours.has(value.name)).map((value) => value.name)
  if (missing.length > 0 || extra.length > 0) {
    const parts = [
      ...(missing.length > 0 ? [`lacks ${what} ${missing.join(', ')}`] : []),
      ...(extra.length > 0 ? [`has ${what} ${extra.join(', ')} more`] : []),
    ]
    throw new QtoolError('model', `${path}: compared with the reference it ${parts.join(' and ')}`, {
      hint: 'only two versions of one model can be compared',
    })
  }
  return new Map(reference.map((value) => [value.name, value.name]))
}

/** The same feeds under the candidate's names. */
export function candidateFeeds(
  feeds: ReadonlyMap<string, FeedTensor>,
  pairing: Pairing,
): ReadonlyMap<string, FeedTensor> {
  return new Map([...feeds].map(([name, tensor]) => [pairing.inputs.get(name) ?? name, tensor]))
}
