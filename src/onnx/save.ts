/**
 * @file OnnxModel → files. Everything is written to a temporary directory beside the output, where it can be loaded and
 * checked, and takes its final name only when it is complete. At most a few MiB are buffered.
 */
import type { RunOptions } from '../progress.ts'
import { type ExternalDataMode, type Layout, layOut } from './layout.ts'
import type { ModelFile, OnnxModel } from './model.ts'
import { OutputFile } from './outputFiles.ts'
import { PayloadStream } from './payloadStream.ts'
import type { ModelProto } from './proto.ts'
import type { Spool } from './spool.ts'
import { Stage, type StagedModel } from './stage.ts'
import { Temporaries } from './temporaries.ts'

export interface SaveOptions extends RunOptions {
  readonly externalData: ExternalDataMode
  /** Replace existing output. */
  readonly force: boolean
  /** Every file of the model that is read: none of them is ever replaced. */
  readonly sources: readonly string[]
  /** Where new payloads are. Used up: afterwards it is gone and its payloads are not valid any more. */
  readonly spool?: Spool
  /** Who removes unfinished output when the process is told to stop. */
  readonly temporaries?: Temporaries
}

/**
 * Write a model and give it its name: {@link stageModel} and commit.
 * @returns the files, the .onnx file first.
 * @throws QtoolError `output`, `usage`, `model`, `interrupted`; nothing is left behind then.
 */
export function saveModel(
  proto: ModelProto,
  payloads: OnnxModel['payloads'],
  outPath: string,
  options: SaveOptions,
): readonly ModelFile[] {
  const staged = stageModel(proto, payloads, outPath, options)
  staged.commit()
  return staged.files
}

/**
 * Write a complete model under temporary names. `proto` is changed meanwhile, and restored.
 *
 * @param payloads tensors of `proto` with their bytes; entries whose tensor is not in `proto` are ignored.
 * @param outPath of the .onnx file; its directory must exist. The data file, if there is one, is `<outPath>_data`.
 * @throws QtoolError `output` when the output may not or cannot be written, `usage` when it cannot be a single file,
 *   `model` when a source cannot be read any more, `interrupted`. Every temporary file is removed then, the spool too.
 */
export function stageModel(
  proto: ModelProto,
  payloads: OnnxModel['payloads'],
  outPath: string,
  options: SaveOptions,
): StagedModel {
  const temporaries = options.temporaries ?? new Temporaries()
  const { spool, externalData } = options
  try {
    const layout = layOut(proto, payloads, outPath, externalData, spool?.path)
    const hasData = layout.external.length > 0
    const files: ModelFile[] = [{ path: outPath, bytes: layout.onnxBytes }]
    if (hasData) files.push({ path: layout.dataPath, bytes: layout.dataBytes })
    const stage = new Stage(files, options, temporaries)
    const stream = new PayloadStream(writtenBytes(layout), options)
    try {
      // The .onnx first: it may need what is in the spool, which writeData may move away.
      writeOnnx(layout, stage.pathOf(outPath), outPath, stream)
      if (hasData) writeData(layout, stage.pathOf(layout.dataPath), spool, stream)
    } finally {
      stream.close()
    }
    spool?.remove()
    return stage
  } catch (error) {
    spool?.remove()
    temporaries.removeAll()
    throw error
  }
}

function writtenBytes(layout: Layout): number {
  return layout.onnxBytes + layout.external.reduce((sum, { payload }) => sum + payload.byteLength, 0)
}

function writeOnnx(layout: Layout, temporary: string, shownAs: string, stream: PayloadStream): void {
  OutputFile.write(temporary, shownAs, (file) => {
    for (const piece of layout.pieces) {
      if ('payload' in piece) {
        for (const chunk of stream.chunksOf(layout.inline[piece.payload]!)) file.append(chunk)
      } else {
        file.append(piece.bytes)
        stream.advance(piece.bytes.length)
      }
    }
  })
}

function writeData(layout: Layout, temporary: string, spool: Spool | undefined, stream: PayloadStream): void {
  const isInPlace = ({ payload, offset }: Layout['external'][number]): boolean =>
    payload.kind === 'file' && payload.path === spool?.path && payload.offset === offset
  const inPlace = layout.external.filter(isInPlace)
  const last = inPlace.at(-1)
  // Only if the spool holds exactly the first tensors of the data file, and nothing that is not used.
  if (spool && last && spool.length === last.offset + last.payload.byteLength) {
    for (const { payload, offset } of layout.external.slice(inPlace.length)) {
      spool.appendAt(offset, stream.chunksOf(payload))
    }
    spool.moveTo(temporary)
    stream.advance(inPlace.reduce((sum, { payload }) => sum + payload.byteLength, 0))
    return
  }
  OutputFile.write(temporary, layout.dataPath, (file) => {
    for (const { payload, offset } of layout.external) {
      file.skipTo(offset)
      for (const chunk of stream.chunksOf(payload)) file.append(chunk)
    }
  })
}
