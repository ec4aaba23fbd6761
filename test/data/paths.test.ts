import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { listFiles } from '../../src/data/paths.ts'
import { expectError } from './expectError.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'qtool-paths-'))
  for (const name of [
    'x/b.png',
    'x/a.PNG',
    'x/c.txt',
    'x/deep/d.png',
    'x/deep/.e.png',
    'y/a.png',
    'odd/[ab]c.npz',
    'odd/ac.npz',
  ]) {
    mkdirSync(join(folder, name, '..'), { recursive: true })
    writeFileSync(join(folder, name), '')
  }
  mkdirSync(join(folder, 'x', 'folder.png'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const list = (...paths: string[]) =>
  listFiles(paths.map((path) => join(folder, path))).map((path) => path.slice(folder.length + 1).replaceAll('\\', '/'))

describe('listFiles', () => {
  it('matches patterns in the order of names, and never directories', () => {
    expect(list('x/*.png')).toEqual(['x/b.png'])
    expect(list('x/*.{png,PNG}')).toEqual(['x/a.PNG', 'x/b.png'])
    expect(list('?/a.*')).toEqual(['x/a.PNG', 'y/a.png'])
    expect(list('**/*.png')).toEqual(['x/b.png', 'x/deep/d.png', 'y/a.png'])
    expect(list('y/*.png', 'x/c*')).toEqual(['y/a.png', 'x/c.txt'])
  })

  it('takes a name that exists as it is, and a directory for its images', () => {
    expect(list('odd/[ab]c.npz')).toEqual(['odd/[ab]c.npz'])
    expect(list('odd')).toEqual(['odd/[ab]c.npz', 'odd/ac.npz'])
    expect(list('y')).toEqual(['y/a.png'])
  })

  it('refuses patterns that match nothing, or what is not known', () => {
    expectError(() => list('x/*.jpg'), 'data', '*.jpg')
    expectError(() => list('nowhere/*.png'), 'data', 'nowhere')
    writeFileSync(join(folder, 'y', 'z.csv'), '')
    expectError(() => list('y/*'), 'data', 'z.csv')
    expectError(() => list('x/none.png'), 'data', 'none.png')
  })
})
