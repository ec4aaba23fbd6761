/** @file The version of qtool, as package.json says. */
import { readFileSync } from 'node:fs'

// package.json is one folder up from the sources and two from the compiled files.
const beside = ['../package.json', '../../package.json'].map((path) => new URL(path, import.meta.url))

/** For example '0.1.0'. */
export const VERSION: string = (JSON.parse(readFileSync(beside.find(exists)!, 'utf8')) as { version: string }).version

function exists(url: URL): boolean {
  try {
    return (JSON.parse(readFileSync(url, 'utf8')) as { name?: string }).name === 'qtool'
  } catch {
    return false
  }
}
