/** @file Which layers a user's `PATTERN=8` or `PATTERN=skip` speaks of. */
import picomatch from 'picomatch'
import { QtoolError } from '../errors.ts'
import type { Bits } from '../quant/quantizedWeight.ts'

export interface Override {
  /** A glob, or a regular expression between slashes with optional flags `i` and `u`. */
  readonly pattern: string
  readonly bits: Bits | 'skip'
}

/**
 * A pattern as a predicate on names. In a glob, `*` matches any characters, slashes too, because the names of layers are
 * not paths; a name always matches itself, whatever characters it has. A regular expression matches anywhere in a name.
 *
 * @throws QtoolError `usage` when the regular expression does not compile.
 */
export function compilePattern(pattern: string): (name: string) => boolean {
  const regex = /^\/(.*)\/([iu]*)$/s.exec(pattern)
  if (regex) {
    try {
      const compiled = new RegExp(regex[1]!, regex[2])
      return (name) => compiled.test(name)
    } catch (cause) {
      throw new QtoolError(
        'usage',
        `layer pattern ${pattern} is not a regular expression: ${(cause as Error).message}`,
        {
          hint: 'between slashes stands a JavaScript regular expression; without them a glob such as */attn/*',
          cause,
        },
      )
    }
  }
  const matches = picomatch(pattern, { bash: true, dot: true, nonegate: true, windows: false })
  return (name) => name === pattern || matches(name)
}

/**
 * What the overrides say about each layer; the last one that matches wins. A pattern may match the name of the layer
 * or of its weight tensor.
 *
 * @returns `choices[i]` for `layers[i]`, undefined where no pattern matches; `unmatched`, the patterns that match no
 * layer, in order.
 * @throws QtoolError `usage` on a malformed pattern.
 */
export function applyOverrides(
  layers: readonly { readonly name: string; readonly weight: string }[],
  overrides: readonly Override[],
): { readonly choices: readonly (Bits | 'skip' | undefined)[]; readonly unmatched: readonly string[] } {
  const choices: (Bits | 'skip' | undefined)[] = layers.map(() => undefined)
  const unmatched: string[] = []
  for (const { pattern, bits } of overrides) {
    const matches = compilePattern(pattern)
    let matched = false
    layers.forEach((layer, i) => {
      if (!matches(layer.name) && !matches(layer.weight)) return
      choices[i] = bits
      matched = true
    })
    if (!matched) unmatched.push(pattern)
  }
  return { choices, unmatched }
}
