/** @file Recognises, by their first bytes, files that people take for ONNX models, to say what they are. */

export interface ForeignKind {
  /** With article, for example: a NumPy array (.npy). */
  readonly what: string
  readonly hint: string
}

const EXPORT_HINT = 'export the model to ONNX first'
const PATH_HINT = 'give the path of the .onnx file'

/** [offset, the bytes there as Latin-1, kind]. */
const SIGNATURES: readonly (readonly [number, string, ForeignKind])[] = [
  [0, '\x93NUMPY', { what: 'a NumPy array (.npy)', hint: `${PATH_HINT}; arrays are calibration or evaluation data` }],
  [
    0,
    'PK\x03\x04',
    { what: 'a zip archive (.zip, .npz, or a PyTorch checkpoint)', hint: `unpack it; a checkpoint must be exported` },
  ],
  [0, '\x1f\x8b', { what: 'a gzip archive', hint: 'unpack it' }],
  [0, 'BZh', { what: 'a bzip2 archive', hint: 'unpack it' }],
  [0, '\xfd7zXZ', { what: 'an xz archive', hint: 'unpack it' }],
  [0, '\x28\xb5\x2f\xfd', { what: 'a Zstandard archive', hint: 'unpack it' }],
  [0, 'GGUF', { what: 'a GGUF file (llama.cpp)', hint: EXPORT_HINT }],
  [0, '\x89HDF', { what: 'an HDF5 file (.h5)', hint: EXPORT_HINT }],
  [0, '\x80\x02', { what: 'a Python pickle (a PyTorch checkpoint)', hint: EXPORT_HINT }],
  [4, 'TFL3', { what: 'a TensorFlow Lite model', hint: EXPORT_HINT }],
  [
    4,
    'ORTM',
    { what: "a model in onnxruntime's own format (.ort)", hint: 'give the .onnx file that it was made from' },
  ],
  [0, '\x7fELF', { what: 'a program', hint: PATH_HINT }],
  [0, '%PDF', { what: 'a PDF document', hint: PATH_HINT }],
  [0, '\x89PNG', { what: 'a PNG image', hint: PATH_HINT }],
]

/** Patterns of text files, matched against the start without white space. */
const TEXTS: readonly (readonly [RegExp, ForeignKind])[] = [
  [
    /^version https:\/\/git-lfs/,
    { what: 'a Git LFS pointer, not the model itself', hint: 'fetch the content with: git lfs pull' },
  ],
  [/^<(!doctype|html|head)/i, { what: 'a web page (HTML)', hint: 'the download went wrong; download the file itself' }],
  [/^<(\?xml|net )/i, { what: 'an XML file (perhaps OpenVINO)', hint: EXPORT_HINT }],
  [/^[{[]\s*["\]}{[\d]/, { what: 'a JSON file', hint: PATH_HINT }],
]

/** Bytes of a file that {@link recogniseForeign} wants to see. */
export const HEAD_BYTES = 512

/**
 * What a file is that is not an ONNX model.
 * @param head its first {@link HEAD_BYTES} bytes, or all of it.
 * @returns undefined when nothing is recognised.
 */
export function recogniseForeign(head: Uint8Array): ForeignKind | undefined {
  const latin1 = Buffer.from(head).toString('latin1')
  for (const [offset, signature, kind] of SIGNATURES) {
    if (latin1.startsWith(signature, offset)) return kind
  }
  // safetensors: the length of a JSON header in 8 bytes, then the header.
  if (/^[\s\S]{4}\0{4}\{\s*"/.test(latin1)) return { what: 'a safetensors file', hint: EXPORT_HINT }
  const text = latin1.replace(/^\xef\xbb\xbf/, '').trimStart()
  return TEXTS.find(([pattern]) => pattern.test(text))?.[1]
}
