/** @file What the terminal allows, and writing to it: colour, a moving display, pipes that close early. */
import { styleText } from 'node:util'
import { EXIT_USAGE } from './exit.ts'

type Style = Parameters<typeof styleText>[0]

/** CI and NO_COLOR count when set to anything but nothing, `0` or `false`. */
function isSet(name: string): boolean {
  const value = process.env[name]
  return value !== undefined && value !== '' && value !== '0' && value !== 'false'
}

/**
 * Whether colour and a moving display are welcome on a stream: a terminal, and neither NO_COLOR nor CI. Pseudoterminals
 * of no width (some containers make them) cannot show a moving line.
 */
export function isLively(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY === true && stream.columns > 0 && !isSet('NO_COLOR') && !isSet('CI')
}

/** The text in a style where the stream welcomes it, else the text. */
export function styled(style: Style, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  return isLively(stream) ? styleText(style, text, { validateStream: false }) : text
}

/**
 * Names and messages may hold anything that a model file holds: control characters would move the cursor or fake lines.
 * @returns the text with each control character, but for newlines where `lines` says so, as `\xNN`.
 */
export function printable(text: string, lines = false): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (character) =>
    lines && character === '\n' ? character : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
}

/** A reader that has seen enough (`qtool … | head`) closes the pipe: stop writing, keep the exit code, say nothing. */
export function tolerateClosedPipes(): void {
  for (const stream of [process.stdout, process.stderr])
    stream.off('error', ignoreClosedPipe).on('error', ignoreClosedPipe)
}

function ignoreClosedPipe(this: NodeJS.WriteStream, error: NodeJS.ErrnoException): void {
  if (error.code === 'EPIPE') return
  // A full disk behind `> report.json`: what was asked for could not be handed over.
  process.once('exit', () => {
    process.exitCode = EXIT_USAGE
  })
  if (this !== process.stderr) writeNotice('error', `cannot write to standard output: ${error.code ?? error.message}`)
}

/** Write a result to stdout, ending in one newline. */
export function writeResult(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`)
}

/** Write a result to stdout as one JSON document; Infinity and NaN become null. */
export function writeJson(document: object): void {
  writeResult(JSON.stringify(document, null, 2))
}

/** One line about the run on stderr. */
export function writeNotice(kind: 'warning' | 'error' | 'hint', text: string): void {
  const style = { warning: 'yellow', error: 'red', hint: 'cyan' } as const
  process.stderr.write(`${styled(style[kind], `${kind}:`, process.stderr)} ${printable(text, true)}\n`)
}
