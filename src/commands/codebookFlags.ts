/** @file Flags about codebooks, which quantizing and measuring share. */
import { Option } from 'commander'
import { CODEBOOK_NAMES, MAPPINGS, QUANTIZE_DEFAULTS } from '../config.ts'
import { valueOption } from './flags.ts'
import { readAutoNumber } from './values.ts'

const byDefault = (value: string | number) => `(default: ${value})`

/** @param usual what applies when no codebook is named, as help says it. */
export function codebookOptions(usual: string): Option[] {
  const { rowGroups, trellisWindow, mapping } = QUANTIZE_DEFAULTS
  return [
    new Option(
      '--codebook <name>',
      `auto (trellis, on data grids where they lose less), light (auto, searched fast), ${CODEBOOK_NAMES.join(', ')}: see docs/CODEBOOKS.md ${usual}`,
    ),
    valueOption(
      '--row-groups <n>',
      `different tables of jlcm, 1 to 16, or auto: as many as pay for themselves ${byDefault(rowGroups)}`,
      readAutoNumber('--row-groups'),
    ),
    valueOption(
      '--trellis-window <n>',
      `bits of an index of trellis: 8, 12, or auto: 12 in a small model ${byDefault(trellisWindow)}`,
      readAutoNumber('--trellis-window'),
    ),
    new Option(
      '--mapping <name>',
      `how jlcm and lut find indices on data: ${MAPPINGS.join(', ')} ${byDefault(mapping)}`,
    ),
  ]
}
