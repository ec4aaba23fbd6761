/** @file Which keys of a configuration a caller gave, and which are only defaults. */

/** Later values win; undefined ones do not. */
export function withDefaults<T extends object>(defaults: T, values: Partial<T>): T {
  return { ...defaults, ...Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) }
}

/**
 * What to compare with to see what was given. A complete configuration has been resolved before: what equals a default
 * there was filled in. In any other a value was given even where it equals the default.
 */
export function usualValues<T extends object>(defaults: T, values: Partial<T>): Partial<T> {
  const given = new Map(Object.entries(values).filter(([, value]) => value !== undefined))
  return Object.keys(defaults).every((key) => given.has(key)) ? defaults : {}
}

/** The first of the keys that says something: not undefined, not an empty object, not the usual value. */
export function firstGiven(keys: readonly string[], values: object, usual: object): string | undefined {
  const given = new Map<string, unknown>(Object.entries(values))
  const known = new Map<string, unknown>(Object.entries(usual))
  return keys.find((key) => {
    const value = given.get(key)
    if (value === undefined || isSame(value, known.get(key))) return false
    return typeof value !== 'object' || value === null || Object.keys(value).length > 0
  })
}

/** A configuration may be a copy, sent to a thread. */
function isSame(value: unknown, usual: unknown): boolean {
  return value === usual || (typeof value === 'object' && JSON.stringify(value) === JSON.stringify(usual))
}
