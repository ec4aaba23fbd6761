/** @file What every command's flags have in common. */
import { type Command, Option } from 'commander'
import type { Operation } from '../configRules.ts'
import type { Reader } from './values.ts'
import { readNumber } from './values.ts'

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

/** The flags that all commands share, last in their lists. */
export function addCommonFlags(command: Command, operation: Operation): void {
  command.addOption(
    valueOption('--threads <n>', 'worker threads; 0 = one per core (default: 0)', readNumber('--threads')),
  )
  if (operation !== 'analyze') {
    command.addOption(valueOption('--seed <n>', 'seed of everything random (default: 0)', readNumber('--seed')))
  }
  command
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
