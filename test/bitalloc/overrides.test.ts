import { describe, expect, it } from 'vitest'
import { applyOverrides, compilePattern } from '../../src/bitalloc/overrides.ts'

const LAYERS = ['/block.0/attn/q/MatMul', '/block.0/mlp/MatMul', '/head/MatMul', 'odd[name]*', '!x'].map((name) => ({
  name,
  weight: `w:${name}`,
}))

describe('compilePattern', () => {
  it.each([
    ['*attn*', '/block.0/attn/q/MatMul', true],
    ['*/attn/*', '/block.0/attn/q/MatMul', true],
    ['/block.?/*', '/block.0/mlp/MatMul', true],
    ['/block.{0,1}/mlp/*', '/block.1/mlp/MatMul', true],
    ['attn', '/block.0/attn/q/MatMul', false],
    ['*', '.hidden/name', true],
    ['odd[name]*', 'odd[name]*', true],
    ['!x', 'y', false],
    ['!x', '!x', true],
    ['/attn/', '/block.0/attn/q/MatMul', true],
    ['/^attn/', '/block.0/attn/q/MatMul', false],
    ['/ATTN/i', '/block.0/attn/q/MatMul', true],
    ['/head/MatMul', '/head/MatMul', true],
    ['/head/MatMul', '/the/head/MatMul', false],
  ])('%s on %s: %s', (pattern, name, matches) => {
    expect(compilePattern(pattern)(name)).toBe(matches)
  })

  it('refuses a malformed regular expression', () => {
    expect(() => compilePattern('/(/')).toThrow(expect.objectContaining({ code: 'usage' }))
  })
})

describe('applyOverrides', () => {
  it('lets the last match win, and names the patterns that match nothing', () => {
    const { choices, unmatched } = applyOverrides(LAYERS, [
      { pattern: '/block*', bits: 8 },
      { pattern: '*conv*', bits: 2 },
      { pattern: '*/mlp/*', bits: 'skip' },
      { pattern: 'w:/head/*', bits: 6 },
    ])
    expect(choices).toEqual([8, 'skip', 6, undefined, undefined])
    expect(unmatched).toEqual(['*conv*'])
  })
})
