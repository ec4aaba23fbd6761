/**
 * @file What identifies a model, data, and settings, so that results of one run are never used for another one.
 *
 * Digests are SHA-256 in hexadecimal. Names and places of files are no part of them: a copy is the same model.
 */
import { createHash, type Hash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { fileError } from '../data/dataFile.ts'
import { readLabels } from '../data/labels.ts'
import type { OnnxModel, Payload } from '../onnx/model.ts'
import { encodeModel } from '../onnx/proto.ts'
import { OpenFiles, readAt } from '../onnx/readAt.ts'
import { canonicalJson, fromJson } from './canonicalJson.ts'

/** Larger files are sampled: 64 chunks of 64 KiB, evenly spaced, the first and last bytes included. */
const SAMPLES = 64
const SAMPLE_BYTES = 2 ** 16
/** Data files up to this size are read whole. */
const WHOLE_DATA_FILE = 64 * 2 ** 20
/** Bytes from the middle of each tensor that lies in a file. */
const TENSOR_BYTES = 2 ** 12
/** Characters of a setting's value in a message. */
const LONGEST_VALUE = 60
/** Bytes read at once. */
const CHUNK = 2 ** 20

/**
 * Digest of a model that does not read gigabytes. The graph counts in full, and an .onnx file that was read into memory
 * does so too. Of files that stay on disk count the size, 64 chunks of 64 KiB, and 4 KiB from the middle of each tensor
 * in them: a change of every weight of some tensor is always noticed, that of a few weights in such a file perhaps not.
 * @throws QtoolError `model` when a file cannot be read.
 */
export function modelFingerprint(model: Pick<OnnxModel, 'proto' | 'payloads' | 'files' | 'content'>): string {
  const hash = createHash('sha256')
  // Where the file is not in memory, the decoded model is: all of the file but its large tensors.
  hash.update(model.content ?? encodeModel(model.proto))
  const open = new OpenFiles()
  try {
    for (const file of model.content ? model.files.slice(1) : model.files) {
      hashNumber(hash, file.bytes)
      for (const { offset, length } of samplesOf(file.bytes)) {
        const bytes = new Uint8Array(length)
        open.read(file.path, offset, bytes)
        hash.update(bytes)
      }
    }
    for (const payload of model.payloads.values()) hashMiddle(hash, payload, open)
  } finally {
    open.close()
  }
  return hash.digest('hex')
}

function hashMiddle(hash: Hash, payload: Payload, open: OpenFiles): void {
  if (payload.kind !== 'file') return
  const bytes = new Uint8Array(Math.min(TENSOR_BYTES, payload.byteLength))
  open.read(payload.path, payload.offset + Math.floor((payload.byteLength - bytes.length) / 2), bytes)
  hashNumber(hash, payload.byteLength)
  hash.update(bytes)
}

/**
 * Digest of data files in their order (which decides what is a sample and what is held out): size and contents of each,
 * sampled as above beyond 64 MiB. A directory stands for all files in it and below, in name order.
 * @throws QtoolError `data`, naming the file that cannot be read.
 */
export function dataFingerprint(paths: readonly string[]): string {
  const hash = createHash('sha256')
  const chunk = new Uint8Array(CHUNK)
  for (const file of paths.flatMap(filesOf)) {
    try {
      hashDataFile(hash, file, chunk)
    } catch (cause) {
      throw fileError(file, cause)
    }
  }
  return hash.digest('hex')
}

function filesOf(given: string): string[] {
  try {
    if (!fs.statSync(given).isDirectory()) return [given]
    const entries = fs.readdirSync(given, { recursive: true, encoding: 'utf8' }).map((name) => path.join(given, name))
    return entries.filter((entry) => fs.statSync(entry).isFile()).sort()
  } catch (cause) {
    throw fileError(given, cause)
  }
}

function hashDataFile(hash: Hash, file: string, chunk: Uint8Array): void {
  const fd = fs.openSync(file, 'r')
  try {
    const { size } = fs.fstatSync(fd)
    hashNumber(hash, size)
    for (const { offset, length } of size <= WHOLE_DATA_FILE ? chunksOf(size) : samplesOf(size)) {
      const bytes = chunk.subarray(0, length)
      hash.update(bytes.subarray(0, readAt(fd, bytes, offset)))
    }
  } finally {
    fs.closeSync(fd)
  }
}

interface Range {
  readonly offset: number
  readonly length: number
}

function chunksOf(size: number): Range[] {
  return Array.from({ length: Math.ceil(size / CHUNK) }, (_, i) => ({
    offset: i * CHUNK,
    length: Math.min(CHUNK, size - i * CHUNK),
  }))
}

function samplesOf(size: number): Range[] {
  if (size <= SAMPLES * SAMPLE_BYTES) return chunksOf(size)
  const step = (size - SAMPLE_BYTES) / (SAMPLES - 1)
  return Array.from({ length: SAMPLES }, (_, i) => ({ offset: Math.floor(i * step), length: SAMPLE_BYTES }))
}

/** A length before what it is the length of, so that no two lists of contents look alike. */
function hashNumber(hash: Hash, value: number): void {
  hash.update(`${value};`)
}

/** Digest of class labels. @param spec of `readLabels`. @throws QtoolError `data`. */
export function labelsFingerprint(spec: string): string {
  const labels = readLabels(spec)
  return createHash('sha256').update(labels).digest('hex')
}

/**
 * Settings as one text: equal for equal settings, whatever the order of their properties. It is not a digest, so that
 * {@link differences} can say what changed.
 * @param settings an object of JSON values; numbers may be NaN or infinite, undefined properties do not count.
 */
export function settingsFingerprint(settings: Readonly<Record<string, unknown>>): string {
  return canonicalJson(settings)
}

/** Named parts: digests, or texts of {@link settingsFingerprint}. */
export type Fingerprint = Readonly<Record<string, string>>

/**
 * What differs between two fingerprints, in words for a message: the part's name, and for settings the setting's
 * name with both values, as in `seqLen (512 instead of 256)`. Empty when they are equal.
 * @param there of the file.
 * @param here of this run.
 */
export function differences(there: Fingerprint, here: Fingerprint): string[] {
  return changedKeys(there, here).flatMap((part) => {
    const [old, now] = [settingsOf(there[part]), settingsOf(here[part])]
    if (!old || !now) return [part]
    return changedKeys(old, now).map((key) => `${key} (${textOf(old[key])} instead of ${textOf(now[key])})`)
  })
}

function changedKeys(a: Readonly<Record<string, unknown>>, b: Readonly<Record<string, unknown>>): string[] {
  const keys = new Set([...Object.keys(a), ...Object.keys(b)])
  return [...keys].filter((key) => canonicalJson(a[key]) !== canonicalJson(b[key]))
}

function settingsOf(text: string | undefined): Readonly<Record<string, unknown>> | undefined {
  return text?.startsWith('{') ? (fromJson(text) as Readonly<Record<string, unknown>>) : undefined
}

function textOf(value: unknown): string {
  if (value === undefined) return 'not set'
  const text = typeof value === 'string' || typeof value === 'number' ? String(value) : canonicalJson(value)
  return text.length > LONGEST_VALUE ? `${text.slice(0, LONGEST_VALUE)}…` : text
}
