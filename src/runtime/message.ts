/** @file What the runtime's error messages say to a user: without C++ source paths, signatures and failed conditions. */

/** A source location, for example `/onnxruntime_src/onnxruntime/core/graph/model.cc:187 ` or `matmul_nbits.cc:326 `. */
const LOCATION = /(?:\/|\b)[\w./\\-]+\.(?:cc|cpp|cu|hpp|h):\d+ /

/** End of the function's name and parameters at the start of `text`, where a source location was just removed. */
function signatureEnd(text: string): number {
  const bare = /^[A-Za-z_]\w* /.exec(text)
  const open = text.indexOf('(')
  const qualified = /^[\w:~<>*&,\s]*::[\w:~<>*&,\s]*\(/.test(text)
  if (!qualified) return bare ? bare[0].length : 0
  let depth = 0
  for (let i = open; i < text.length; i++) {
    if (text[i] === '(') depth++
    if (text[i] === ')' && --depth === 0) {
      // A call operator's parameters follow its own brackets; qualifiers and template arguments may follow those.
      const rest = /^(?:\([^)]*\))?(?: const)?(?: \[with [^\]]*\])? ?/.exec(text.slice(i + 1))
      return i + 1 + (rest ? rest[0].length : 0)
    }
  }
  return 0
}

/**
 * The essential part of a message thrown by onnxruntime, on one line.
 *
 * Removes the prefix that repeats the path, source locations with the function they name, the failed C++ condition
 * where a sentence follows it, and any stack trace.
 */
export function condenseRuntimeMessage(message: string): string {
  let text = message.split(/\n?Stacktrace/)[0]!
  text = text.replace(/\s+/g, ' ').trim()
  text = text.replace(/^(?:Load model .+? failed[:.] ?)+/, '')
  text = text.replace(/^Exception during initialization: /, '')
  for (let found = LOCATION.exec(text); found; found = LOCATION.exec(text)) {
    const rest = text.slice(found.index + found[0].length)
    text = text.slice(0, found.index) + rest.slice(signatureEnd(rest))
  }
  text = text.replace(/(^|: )[^:]* was false\. (?=\S)/, '$1').trim()
  return text.replace(/\.$/, '') || 'no reason given'
}

/**
 * The node that a failed run names, and what it says about it; undefined when the message names none. A failure inside
 * a branch or loop body names the nodes from the outside in; the innermost is taken.
 */
export function failedNode(message: string): { name: string; operator: string; reason: string } | undefined {
  const found = /^[\s\S]*while running (\S+) node\. Name:'(.*)' Status Message: ([\s\S]*)$/.exec(message)
  return found ? { operator: found[1]!, name: found[2]!, reason: condenseRuntimeMessage(found[3]!) } : undefined
}
