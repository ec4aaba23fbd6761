/**
 * @file Collecting garbage on request. The engine counts small objects and lets go of large arrays late: those of the
 * runtime and shared ones weigh nothing in its books, and a thread whose own heap hardly grows never collects at all.
 */
import v8 from 'node:v8'
import vm from 'node:vm'

let collect: (() => void) | undefined

/** Free what this thread does not use any more; some 5 ms for a small heap. */
export function collectGarbage(): void {
  if (!collect) {
    // The flag is read where a context is made; there is no other way to it but to start the process with it.
    v8.setFlagsFromString('--expose-gc')
    collect = vm.runInNewContext('gc') as () => void
  }
  collect()
}
