/** @file Small text files that appear only when they are complete. */
import fs from 'node:fs'
import path from 'node:path'
import { OutputFile, outputError, syncDirectory } from './outputFiles.ts'
import { Temporaries } from './temporaries.ts'

/** Write a small file that is there whole or not at all; an existing one is replaced. @throws QtoolError `output`. */
export function writeTextFile(file: string, text: string): void {
  const temporaries = new Temporaries()
  const temporary = temporaries.reserve(file)
  try {
    OutputFile.write(temporary, file, (output) => output.append(Buffer.from(text)))
    try {
      fs.renameSync(temporary, file)
    } catch (cause) {
      throw outputError(file, cause)
    }
    temporaries.forget(temporary)
    syncDirectory(path.dirname(file))
  } finally {
    temporaries.removeAll()
  }
}
