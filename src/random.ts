/** @file The only source of randomness: a seeded generator with the same numbers on every machine. Imports nothing. */

export interface Random {
  /** Uniform in [0, 1), 32 bits of resolution. */
  uniform(): number
  /** Standard normal (Box–Muller). */
  normal(): number
  /** Uniform integer in [0, n). */
  below(n: number): number
}

/**
 * Make a generator (sfc32, Chris Doty-Humphrey's small fast counter).
 * @param seed any integer; equal seeds give equal sequences.
 */
export function makeRandom(seed: number): Random {
  let a = seed | 0
  let b = Math.floor(seed / 4294967296) | 0
  let c = 0x9e3779b9 | 0
  let counter = 1
  const next = (): number => {
    const t = (((a + b) | 0) + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (((c << 21) | (c >>> 11)) + t) | 0
    return t >>> 0
  }
  for (let i = 0; i < 12; i++) next()
  const uniform = () => next() / 4294967296
  return {
    uniform,
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    below: (n) => Math.floor(uniform() * n),
  }
}
