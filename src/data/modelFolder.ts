/**
 * @file Files that come with a model: beside it, or one folder up, as in Hugging Face's layout (ROOT/tokenizer.json,
 * ROOT/onnx/model.onnx). The folder of the model comes first.
 */
import { existsSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { QtoolError } from '../errors.ts'
import { readDataFile } from './dataFile.ts'

/** A JSON file that comes with a model. */
export interface ModelFile {
  readonly path: string
  readonly content: Readonly<Record<string, unknown>>
}

/** Where a file that comes with a model may be; empty when the model's own path is not known. */
export function modelFilePlaces(modelPath: string | undefined, name: string): string[] {
  if (modelPath === undefined) return []
  const folder = dirname(resolve(modelPath))
  return [...new Set([folder, dirname(folder)])].map((place) => join(place, name))
}

/**
 * Read a JSON file that comes with a model.
 * @returns undefined when there is none.
 * @throws QtoolError `data` when it is unreadable or holds no JSON object.
 */
export function readModelFile(modelPath: string | undefined, name: string): ModelFile | undefined {
  const path = modelFilePlaces(modelPath, name).find((place) => existsSync(place))
  if (path === undefined) return undefined
  let content: unknown
  try {
    content = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(readDataFile(path)))
  } catch (cause) {
    if (cause instanceof QtoolError) throw cause
    throw new QtoolError('data', `${path}: not JSON (${(cause as Error).message})`, { cause })
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw new QtoolError('data', `${path}: wanted a JSON object`)
  }
  return { path, content: content as Record<string, unknown> }
}
