/**
 * @file JSON that keeps numbers which JSON has no words for, and one text for equal objects. Imports nothing.
 *
 * NaN and the infinities become `{"$number": "NaN"}` and so on; plain JSON would make them null.
 */

const NUMBER = '$number'

/** Text of any JSON value in which numbers may be NaN or infinite; properties that are undefined are left out. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, (_, part) => encodeNumber(part)) ?? 'null'
}

/** What {@link toJson} wrote. */
export function fromJson(text: string): unknown {
  return JSON.parse(text, (_, part: unknown) => {
    const number = isObject(part) ? part[NUMBER] : undefined
    return typeof number === 'string' ? Number(number) : part
  })
}

/** {@link toJson} with the properties of every object in the order of their names: one text for equal values. */
export function canonicalJson(value: unknown): string {
  return (
    JSON.stringify(value, (_, part: unknown) => {
      if (!isObject(part)) return encodeNumber(part)
      return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
    }) ?? 'null'
  )
}

function encodeNumber(part: unknown): unknown {
  return typeof part === 'number' && !Number.isFinite(part) ? { [NUMBER]: String(part) } : part
}

function isObject(part: unknown): part is Readonly<Record<string, unknown>> {
  return typeof part === 'object' && part !== null && !Array.isArray(part)
}
