/** @file Class labels beside the data: one integer per sample. */
import { QtoolError } from '../errors.ts'
import { checkConvertible, convertElements } from './convert.ts'
import { readDataFile } from './dataFile.ts'
import { formatShape, type NdArray } from './ndArray.ts'
import { decodeNpy } from './npy.ts'
import { openNpz } from './npz.ts'

/** Names under which archives keep labels. */
const LABEL_NAMES = ['labels', 'label', 'y']

export function isLabelName(name: string): boolean {
  return LABEL_NAMES.includes(name.toLowerCase())
}

/**
 * Read class labels.
 *
 * @param spec  'FILE.npy', 'FILE.npz:NAME', or 'FILE.npz' with an array named labels, label or y.
 * @returns one class number per sample.
 * @throws QtoolError `data` when there is no such array, or it is not one axis of integers.
 */
export function readLabels(spec: string): Int32Array {
  const array = readLabelArray(spec)
  if (array.shape.length !== 1) {
    throw new QtoolError('data', `labels ${spec}: wanted one axis of integers, found shape ${formatShape(array.shape)}`)
  }
  checkConvertible(array, 'int32', `labels ${spec}`)
  return convertElements(array, 0, array.data.length, 'int32') as Int32Array
}

function readLabelArray(spec: string): NdArray {
  const [, archive, name] = /^(.*\.npz)(?::([^:/\\]+))?$/i.exec(spec) ?? []
  if (archive === undefined) {
    if (/\.npy$/i.test(spec)) return decodeNpy(readDataFile(spec), spec)
    throw new QtoolError('data', `labels ${spec}: wanted FILE.npy, FILE.npz or FILE.npz:NAME`)
  }
  const npz = openNpz(readDataFile(archive), archive)
  if (name !== undefined) return npz.read(name)
  const candidates = npz.names.filter(isLabelName)
  if (candidates.length === 1) return npz.read(candidates[0]!)
  throw new QtoolError(
    'data',
    `labels ${spec}: wanted one array named ${LABEL_NAMES.join(' or ')}, found ${npz.names.join(', ')}`,
    { hint: `name the array: ${archive}:NAME` },
  )
}
