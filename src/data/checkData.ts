/** @file Checks of data and options against the inputs of a model. */
import { QtoolError } from '../errors.ts'
import { checkConvertible, isIntegerDtype } from './convert.ts'
import type { Block } from './layout.ts'
import { checkInputNames, feedDtype, feedType, type ModelInput } from './modelInput.ts'
import { checkNormalization, type Normalization } from './normalize.ts'

/**
 * Options must name inputs that exist, and inputs must take numbers.
 * @throws QtoolError `usage` or `data`
 */
export function checkOptions(
  inputs: readonly ModelInput[],
  options: { rename: object; constants: object; normalize: Readonly<Record<string, Normalization>> },
): void {
  for (const input of inputs) feedType(input)
  for (const [option, values] of Object.entries(options)) checkInputNames(inputs, Object.keys(values), option)
  for (const input of inputs) {
    const normalization = options.normalize[input.name]
    if (normalization) checkNormalization(input, normalization)
  }
}

export function givenNames(block: Block): Set<string> {
  return new Set(block.columns.map((column) => column.input.name))
}

/** @throws QtoolError `data` when a block has other inputs than the first. */
export function checkSameInputs(block: Block, first: Block): void {
  const [given, wanted] = [givenNames(block), givenNames(first)]
  const odd = [...wanted].find((name) => !given.has(name)) ?? [...given].find((name) => !wanted.has(name))
  if (odd === undefined) return
  const [has, lacks] = given.has(odd) ? [block.place, first.place] : [first.place, block.place]
  throw new QtoolError('data', `input ${odd} is in ${has} but not in ${lacks}`, {
    hint: 'all samples need the same inputs',
  })
}

/**
 * Values must exist in the type that the input takes; conversions that change a number's type are noted.
 * @throws QtoolError `data` for a value that does not fit, `usage` for an input that has a constant as well.
 */
export function checkBlock(
  { columns, place }: Block,
  normalize: Readonly<Record<string, Normalization>>,
  constants: Readonly<Record<string, number>>,
  notes: Set<string>,
): void {
  for (const { input, array } of columns) {
    if (Object.hasOwn(constants, input.name)) {
      throw new QtoolError(
        'usage',
        `input ${input.name} has a constant (${constants[input.name]}) and data in ${place}`,
      )
    }
    if (normalize[input.name]) {
      notes.add(`${input.name}: rescaled with the given scale, mean and std`)
      continue
    }
    const dtype = feedDtype(input)
    checkConvertible(array, dtype, `${place}: input ${input.name}`)
    if (array.dtype === dtype) continue
    const isFloat = !isIntegerDtype(dtype)
    if (array.dtype === 'uint8' && isFloat) {
      notes.add(`${input.name}: uint8 data is fed as 0 … 255, NOT rescaled (--scale, --mean, --std rescale it)`)
    } else if (!array.fromText) {
      notes.add(`${input.name}: ${array.dtype} data is fed as ${dtype}`)
    }
  }
}
