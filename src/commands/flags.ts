/** @file What every command's flags have in common. */
import { type Command, Option } from 'commander'
import type { Reader } from './values.ts'
import { readGroupSize, readLayers, readNumber } from './values.ts'

/** How a command was asked to speak, and where its configuration file is. */
export interface CommonFlags {
  readonly json: boolean
  readonly quiet: boolean
  readonly config: string | undefined
}

/** An option whose value is read by a {@link Reader}. */
export function valueOption<T>(flags: string, description: string, read: Reader<T>): Option {
  return new Option(flags, description).argParser((text: string, previous: unknown) => read(text, previous as T))
}

/** Which grids, and what becomes of single layers: the same where layers are measured and where they are written. */
export function layerOptions(
  bits: string,
  groupSize: string,
): Record<'bits' | 'groupSize' | 'symmetric' | 'asymmetric' | 'layer', Option> {
  return {
    bits: valueOption('--bits <n>', bits, readNumber('--bits')),
    groupSize: valueOption(
      '--group-size <n>',
      `input columns that share a scale: 16, 32, 64, 128, 256 or channel (${groupSize})`,
      readGroupSize('--group-size'),
    ),
    symmetric: new Option('--symmetric', 'grids without zero points only').conflicts('asymmetric'),
    asymmetric: new Option('--asymmetric', 'grids with zero points only').conflicts('symmetric'),
    layer: valueOption(
      '--layer <pattern=bits>',
      "width of some layers, or skip: '*/attn/*=8', '/head$/=skip'; a glob or a /regex/ on names of layers and weights; repeatable, later ones win",
      readLayers('--layer'),
    ),
  }
}

/** Values by flag → by configuration key: `layer` has another name, and two flags are one key. */
export function withLayerKeys(values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { layer, symmetric, asymmetric, ...rest } = values
  const own: Record<string, unknown> = rest
  if (layer !== undefined) own.layers = layer
  if (symmetric || asymmetric) own.symmetric = symmetric ? 'yes' : 'no'
  return own
}

/** The flags that all commands share, last in their lists. */
export function addCommonFlags(command: Command): void {
  command
    .addOption(valueOption('--threads <n>', 'worker threads; 0 = one per core (default: 0)', readNumber('--threads')))
    .addOption(valueOption('--seed <n>', 'seed of everything random (default: 0)', readNumber('--seed')))
    .option('--config <file>', 'read settings from a JSON file; flags win (keys: docs/CONFIG.md)')
    .option('--json', 'print one JSON document instead of tables (docs/CI.md)')
    .option('-q, --quiet', 'no progress and no warnings')
}

/** Split what was given on the command line into the common flags and the operation's own values. */
export function givenFlags(command: Command): { common: CommonFlags; values: Record<string, unknown> } {
  const given = Object.entries(command.opts()).filter(([key]) => command.getOptionValueSource(key) === 'cli')
  const { json = false, quiet = false, config, ...values } = Object.fromEntries(given)
  return { common: { json, quiet, config }, values }
}
