/** @file A value inside decoded JSON that knows where it stands, so that whatever is wrong with it is said by name. */
import { QtoolError } from '../errors.ts'

/** Characters of a wrong value in a message. */
const LONGEST_VALUE = 40

export class Field {
  readonly value: unknown
  readonly #file: string
  readonly #path: string
  readonly #hint: string

  /** @param hint what to do about a file with a wrong value. */
  constructor(file: string, value: unknown, hint: string, path = '') {
    this.#file = file
    this.value = value
    this.#hint = hint
    this.#path = path
  }

  /** A property; its value is undefined where there is none. @throws QtoolError `data` when this is no object. */
  get(name: string): Field {
    if (!this.isObject()) throw this.wrong('an object')
    const value = Object.hasOwn(this.value as object, name) ? (this.value as Record<string, unknown>)[name] : undefined
    return new Field(this.#file, value, this.#hint, this.#path === '' ? name : `${this.#path}.${name}`)
  }

  /** True for a property that is not there: files of before it was known lack it. */
  isAbsent(name: string): boolean {
    return this.get(name).value === undefined
  }

  /** A property that is null where there is none. */
  getOrNull(name: string): Field {
    const field = this.get(name)
    return field.value === undefined ? new Field(this.#file, null, this.#hint, field.#path) : field
  }

  /** An element. @throws QtoolError `data` when this is no list. */
  at(index: number): Field {
    if (!Array.isArray(this.value)) throw this.wrong('a list')
    return new Field(this.#file, this.value[index] as unknown, this.#hint, `${this.#path}[${index}]`)
  }

  isObject(): boolean {
    return typeof this.value === 'object' && this.value !== null && !Array.isArray(this.value)
  }

  /** @throws QtoolError `data`, also by the other readers below. */
  text(): string {
    if (typeof this.value !== 'string') throw this.wrong('a text')
    return this.value
  }

  finite(): number {
    if (typeof this.value !== 'number' || !Number.isFinite(this.value)) throw this.wrong('a finite number')
    return this.value
  }

  atLeastZero(): number {
    if (this.finite() < 0) throw this.wrong('a number of at least 0')
    return this.finite()
  }

  /** A measured loss: below 0 by noise, Infinity where the network has no finite answer. */
  loss(): number {
    if (this.value === Number.POSITIVE_INFINITY) return this.value
    return this.finite()
  }

  /** A whole number, 0 or more. */
  count(): number {
    if (!Number.isSafeInteger(this.value) || (this.value as number) < 0)
      throw this.wrong('a whole number of at least 0')
    return this.value as number
  }

  oneOf<T extends string | number>(values: readonly T[]): T {
    const found = values.find((value) => value === this.value)
    if (found === undefined) throw this.wrong(`one of ${values.join(', ')}`)
    return found
  }

  list<T>(read: (field: Field, index: number) => T): T[] {
    if (!Array.isArray(this.value)) throw this.wrong('a list')
    return this.value.map((_, i) => read(this.at(i), i))
  }

  orNull<T>(read: (field: Field) => T): T | null {
    return this.value === null ? null : read(this)
  }

  /** The error for a value that cannot be. */
  wrong(want: string): QtoolError {
    return new QtoolError('data', `${this.#file}: ${this.#path}: want ${want}, found ${textOf(this.value)}`, {
      hint: this.#hint,
    })
  }
}

function textOf(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) return `a list of ${value.length}`
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value)
  return text.length > LONGEST_VALUE ? `${text.slice(0, LONGEST_VALUE)}…` : text
}
