/**
 * @file Stands in for the pipeline's worker: what it does follows from the name of the model, so that tests can see
 * the command line handle each ending of a run.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import type { WorkerMessage, WorkerStart } from '../../src/commands/task.ts'
import { ANALYZE_REPORT, EVAL_REPORT, QUANTIZE_REPORT } from './sampleReports.ts'

const { task, stop } = workerData as WorkerStart
const post = (message: WorkerMessage) => parentPort!.postMessage(message)
const stopFlag = new Int32Array(stop)
/** A computation that blocks this thread's event loop. */
const block = (milliseconds: number) =>
  Atomics.wait(new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)), 0, 0, milliseconds)
const model = task.operation === 'eval' ? task.reference : task.model

function work(checksForStop: boolean) {
  if (task.operation === 'quantize' && task.output !== undefined) {
    for (const name of ['.out.onnx', '.out.onnx.data']) {
      if (!checksForStop) writeFileSync(join(task.output, '..', `${name}.${process.pid}.abc123.tmp`), 'half')
    }
    const { scratch, stats, resume } = task.config
    for (const file of [scratch && join(scratch, 'x'), ...stats, resume]) {
      if (file && !checksForStop) writeFileSync(join(file, '..', `.x.${process.pid}.abc456.tmp`), 'half')
    }
    writeFileSync(join(task.output, '..', 'started'), '')
  }
  for (let i = 0; i < 400; i++) {
    post({ kind: 'progress', event: { stage: 'quantize', done: i, total: 400, item: `/layer.${i}/MatMul` } })
    block(50)
    if (!checksForStop || Atomics.load(stopFlag, 0) === 0) continue
    post({
      kind: 'failed',
      code: 'interrupted',
      message: 'interrupted before it was done',
      hint: undefined,
      stack: undefined,
    })
    return
  }
}

if (model === 'slow.onnx') work(true)
else if (model === 'stuck.onnx') work(false)
else if (model === 'bug.onnx') {
  post({ kind: 'failed', code: undefined, message: 'x is not iterable', hint: undefined, stack: 'at secret.ts:1' })
} else if (model === 'gone.onnx') process.exit(3)
else if (model === 'thrown.onnx') throw new RangeError('out of range')
else if (model === 'hostile.onnx') {
  post({ kind: 'failed', code: 'model', message: 'tensor \u001b[31mred\r is bad', hint: 'no', stack: undefined })
} else {
  post({ kind: 'progress', event: { stage: 'read', done: 1, total: 1 } })
  const report = { quantize: QUANTIZE_REPORT, analyze: ANALYZE_REPORT, eval: EVAL_REPORT }[task.operation]
  const many = { ...QUANTIZE_REPORT, layers: Array.from({ length: 2000 }, () => QUANTIZE_REPORT.layers[0]!) }
  post({ kind: 'done', report: model === 'big.onnx' ? many : report })
}
