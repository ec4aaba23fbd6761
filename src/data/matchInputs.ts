/** @file Which array of a file goes to which input: by name, by the user's renaming, or because only one choice is left. */
import { QtoolError } from '../errors.ts'
import { isLabelName } from './labels.ts'
import type { ModelInput } from './modelInput.ts'
import { formatShape, type NamedArrays, type NdArray } from './ndArray.ts'

/** What the model takes and how the user's arrays are called. */
export interface Wanted {
  readonly inputs: readonly ModelInput[]
  /** Those that only data can supply. */
  readonly required: readonly ModelInput[]
  /** Input name → name of its array. */
  readonly rename: Readonly<Record<string, string>>
}

/**
 * Pair arrays with inputs and decode those that are used.
 *
 * @param notes  gets a sentence for each choice that the user should know of.
 * @throws QtoolError `data` when no array can be told to be an input.
 */
export function matchInputs(record: NamedArrays, wanted: Wanted, notes: Set<string>): Map<ModelInput, NdArray> {
  const { arrays } = record
  const names = matchNames(record, wanted)
  if (names.size === 0) {
    const target = onlyTarget(wanted)
    const candidates = [...arrays.keys()].filter((name) => !isLabelName(name))
    if (!target || candidates.length !== 1) throw noMatch(record, wanted)
    names.set(target, candidates[0]!)
    if (candidates[0]) notes.add(`array ${candidates[0]} is used as input ${target.name}, the only one that needs data`)
  }
  const used = new Set(names.values())
  const unused = [...arrays.keys()].filter((name) => !used.has(name))
  if (unused.length > 0) notes.add(`not used as inputs: ${unused.join(', ')}`)
  return new Map([...names].map(([input, name]) => [input, arrays.get(name)!()]))
}

/** Name of an input's array. */
export function arrayName(input: ModelInput, rename: Wanted['rename']): string {
  return Object.hasOwn(rename, input.name) ? rename[input.name]! : input.name
}

function matchNames({ arrays, place }: NamedArrays, { inputs, rename }: Wanted): Map<ModelInput, string> {
  const names = new Map<ModelInput, string>()
  for (const input of inputs) {
    const name = arrayName(input, rename)
    if (arrays.has(name)) names.set(input, name)
    else if (Object.hasOwn(rename, input.name)) {
      const found = [...arrays.keys()].map((key) => key || 'one array without a name').join(', ')
      throw new QtoolError('data', `${place}: no array ${name} for input ${input.name}; it has ${found || 'none'}`)
    }
  }
  return names
}

/** The one input that an array without a matching name can be meant for. */
function onlyTarget({ inputs, required }: Wanted): ModelInput | undefined {
  if (required.length === 1) return required[0]
  return required.length === 0 && inputs.length === 1 ? inputs[0] : undefined
}

function noMatch({ arrays, place }: NamedArrays, { inputs, required }: Wanted): QtoolError {
  const list = (required.length > 0 ? required : inputs)
    .map((input) => `${input.name} (${input.elementType} ${formatShape(input.dims)})`)
    .join(', ')
  if (arrays.has('')) {
    return new QtoolError('data', `${place}: one array without a name, but the model needs data for ${list}`, {
      hint: 'give a .npz with one array per input, a directory of .npy named by input, or JSON objects',
    })
  }
  return new QtoolError(
    'data',
    `${place}: wanted arrays named ${list}; found ${[...arrays.keys()].join(', ') || 'none'}`,
    {
      hint: 'name the array of an input with --rename INPUT=NAME',
    },
  )
}
