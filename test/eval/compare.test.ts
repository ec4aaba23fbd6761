import { afterAll, describe, expect, it } from 'vitest'
import { QtoolError } from '../../src/errors.ts'
import { compareModels } from '../../src/eval/compare.ts'
import { encodeModel, type ModelProto } from '../../src/onnx/proto.ts'
import type { ProgressEvent } from '../../src/progress.ts'
import { openSession, type Session } from '../../src/runtime/session.ts'
import * as oracle from '../oracles/metricsOracle.ts'
import {
  buildModel,
  constant,
  DataType,
  datasetOf,
  floatWeight,
  makeNode,
  normalTensor,
  tensor,
  valueInfo,
} from './models.ts'

const opened: Session[] = []
afterAll(() => Promise.all(opened.map((session) => session.dispose())))

async function open(model: ModelProto, path = 'm.onnx'): Promise<Session> {
  const session = await openSession({ bytes: encodeModel(model), path }, { threads: 1 })
  opened.push(session)
  return session
}

const options = { batchSize: 4, logits: 'auto' as const }

async function codeOf(promise: Promise<unknown>): Promise<[string, string]> {
  const error = await promise.then(
    () => undefined,
    (e: unknown) => e,
  )
  expect(error).toBeInstanceOf(QtoolError)
  return [(error as QtoolError).code, (error as QtoolError).message]
}

/** out = x · w (+ more outputs). */
function classifier(seed: number, fields: { input?: string; output?: string; classes?: number; bend?: number } = {}) {
  const { input = 'x', output = 'out', classes = 5, bend = 0 } = fields
  const w = floatWeight('w', [6, classes], seed)
  if (bend) new Float32Array(w.rawData.buffer, w.rawData.byteOffset, 6 * classes)[0]! += bend
  return buildModel({
    inputs: [valueInfo(input, ['n', 6])],
    outputs: [valueInfo(output, ['n', classes])],
    initializers: [w],
    nodes: [makeNode('MatMul', [input, 'w'], [output])],
  })
}

const VOCABULARY = 8

/**
 * logits[t] from the embeddings of tokens up to t (causal), or of all tokens. Softplus of cumulative sums is no linear
 * function of them, so that every token matters to every score.
 */
function languageModel(seed: number, causal: boolean): ModelProto {
  const last = constant('axis', [], BigInt64Array.of(1n), DataType.INT64)
  const axes = constant('axes', [1], BigInt64Array.of(1n), DataType.INT64)
  const sum = causal
    ? [makeNode('CumSum', ['e', 'axis'], ['s'])]
    : [makeNode('ReduceSum', ['e', 'axes'], ['t'], { attributes: { keepdims: 1 } }), makeNode('Add', ['e', 't'], ['s'])]
  return buildModel({
    inputs: [
      valueInfo('input_ids', ['n', 's'], DataType.INT64),
      valueInfo('attention_mask', ['n', 's'], DataType.INT64),
    ],
    outputs: [valueInfo('logits', ['n', 's', VOCABULARY])],
    initializers: [floatWeight('E', [VOCABULARY, 6], seed), floatWeight('w', [6, VOCABULARY], seed + 1), last, axes],
    nodes: [
      makeNode('Gather', ['E', 'input_ids'], ['e']),
      ...sum,
      makeNode('Softplus', ['s'], ['h']),
      makeNode('MatMul', ['h', 'w'], ['logits']),
    ],
  })
}

const ids = tensor(
  'int64',
  [6, 5],
  BigInt64Array.from({ length: 30 }, (_, i) => BigInt((i * 5 + (i >> 2)) % VOCABULARY)),
)
const mask = tensor(
  'int64',
  [6, 5],
  BigInt64Array.from({ length: 30 }, (_, i) => (i % 5 < 2 + (i % 4) ? 1n : 0n)),
)
const tokens = datasetOf({ input_ids: ids, attention_mask: mask })

describe('compareModels', () => {
  const x = normalTensor([10, 6], 9)

  it('compares what onnxruntime computes, and reports progress by sample', async () => {
    const events: ProgressEvent[] = []
    const [reference, candidate] = [await open(classifier(1)), await open(classifier(1, { bend: 0.5 }))]
    const labels = Array.from({ length: 10 }, (_, i) => i % 5)
    const result = await compareModels(reference, candidate, datasetOf({ x }, labels), options, {
      onProgress: (event) => events.push(event),
    })
    expect(events.map((e) => [e.stage, e.done, e.total])).toEqual([
      ['evaluate', 4, 10],
      ['evaluate', 8, 10],
      ['evaluate', 10, 10],
    ])
    const [r, c] = await Promise.all(
      [reference, candidate].map(async (s) => [...(await s.run(new Map([['x', x]]))).get('out')!.data].map(Number)),
    )
    const rows = (flat: number[]) => Array.from({ length: 10 }, (_, i) => flat.slice(5 * i, 5 * i + 5))
    const kls = rows(r!).map((row, i) => oracle.kl(oracle.softmax(row), oracle.softmax(rows(c!)[i]!)))
    const [output] = result.outputs
    expect(output!.kl!.mean).toBeCloseTo(kls.reduce((a, b) => a + b, 0) / 10, 10)
    expect(output!.kl!.standardError).toBeCloseTo(oracle.standardErrorOfMean(kls), 10)
    expect(output!.sqnr).toBeCloseTo(oracle.sqnr(r!, c!), 8)
    expect(output!.cosine).toBeCloseTo(oracle.cosine(r!, c!), 10)
    expect(output!.sqnr).toBeLessThan(40)
    const right = rows(r!).filter((row, i) => oracle.argmax(row) === labels[i]).length
    expect(result.metrics).toMatchObject([{ name: 'accuracy', output: 'out', reference: right / 10, count: 10 }])
    expect(result.samples).toBe(10)
  })

  it('finds perplexity where the model predicts next tokens', async () => {
    const [reference, candidate] = [await open(languageModel(1, true)), await open(languageModel(3, true))]
    const result = await compareModels(reference, candidate, tokens, options)
    const logits = (
      await reference.run(
        new Map([
          ['input_ids', ids],
          ['attention_mask', mask],
        ]),
      )
    ).get('logits')!
    const terms: number[] = []
    for (let s = 0; s < 6; s++) {
      for (let t = 5 * s; t < 5 * s + 4; t++) {
        if (!(mask.data[t] && mask.data[t + 1])) continue
        const row = [...(logits.data as Float32Array)].slice(t * VOCABULARY, (t + 1) * VOCABULARY)
        terms.push(oracle.surprise(row, Number(ids.data[t + 1])))
      }
    }
    expect(terms.length).toBeLessThan(24)
    expect(result.metrics).toHaveLength(1)
    expect(result.metrics[0]).toMatchObject({ name: 'perplexity', count: terms.length })
    expect(result.metrics[0]!.reference).toBeCloseTo(Math.exp(terms.reduce((a, b) => a + b, 0) / terms.length), 6)
    const kept = [...mask.data].filter((m) => m === 1n).length
    expect(result.outputs[0]!.values).toBe(kept * VOCABULARY)
  })

  it('finds none where earlier scores see later tokens', async () => {
    const bidirectional = await open(languageModel(1, false))
    const { metrics, outputs } = await compareModels(bidirectional, bidirectional, tokens, options)
    expect(metrics).toEqual([])
    expect(outputs[0]!.kl!.mean).toBe(0)
  })

  it('gives the same figures for any batch size', async () => {
    const [reference, candidate] = [await open(languageModel(1, true)), await open(languageModel(3, true))]
    const [one, all] = await Promise.all(
      [1, 6].map((batchSize) => compareModels(reference, candidate, tokens, { ...options, batchSize })),
    )
    expect(one!.outputs[0]!.kl!.mean).toBeCloseTo(all!.outputs[0]!.kl!.mean, 6)
    expect(one!.outputs[0]!.kl!.standardError).toBeCloseTo(all!.outputs[0]!.kl!.standardError, 6)
    expect(one!.metrics[0]!.change).toBeCloseTo(all!.metrics[0]!.change, 6)
    expect(one!.metrics[0]!.standardError).toBeCloseTo(all!.metrics[0]!.standardError, 6)
  })

  it('stops after the samples it is told', async () => {
    const session = await open(classifier(1))
    const result = await compareModels(session, session, datasetOf({ x }), { ...options, samples: 3 })
    expect(result.samples).toBe(3)
    expect(result.outputs[0]!.values).toBe(15)
  })

  it('matches by position, with a warning, when only the names differ', async () => {
    const reference = await open(classifier(1))
    const renamed = await open(classifier(1, { input: 'pixels', output: 'result' }))
    const { outputs, warnings } = await compareModels(reference, renamed, datasetOf({ x }), options)
    expect(outputs[0]).toMatchObject({ output: 'out', sqnr: Number.POSITIVE_INFINITY })
    expect(warnings.join()).toMatch(/inputs are matched by position.*outputs are matched by position/)
  })

  it.each<[string, ModelProto, string, RegExp]>([
    ['another output shape', classifier(1, { classes: 4 }), 'model', /c\.onnx: output out.*\[4, 4\].*\[4, 5\]/],
    [
      'one output more',
      buildModel({
        inputs: [valueInfo('x', ['n', 6])],
        outputs: [valueInfo('out', ['n', 6]), valueInfo('extra', ['n', 6])],
        nodes: [makeNode('Relu', ['x'], ['out']), makeNode('Abs', ['x'], ['extra'])],
      }),
      'model',
      /c\.onnx.*has output extra more/,
    ],
    [
      'whole numbers in place of scores',
      buildModel({
        inputs: [valueInfo('x', ['n', 6])],
        outputs: [valueInfo('out', ['n', 6], DataType.INT64)],
        nodes: [makeNode('Cast', ['x'], ['out'], { attributes: { to: DataType.INT64 } })],
      }),
      'model',
      /out is int64, but float/,
    ],
    [
      'an input type of its own',
      buildModel({
        inputs: [valueInfo('x', ['n', 6], DataType.DOUBLE)],
        outputs: [valueInfo('out', ['n', 6], DataType.DOUBLE)],
        nodes: [makeNode('Abs', ['x'], ['out'])],
      }),
      'data',
      /c\.onnx: input x wants double, got float/,
    ],
  ])('refuses a candidate with %s', async (_, model, code, pattern) => {
    const [reference, candidate] = [await open(classifier(1)), await open(model, 'c.onnx')]
    const [found, message] = await codeOf(compareModels(reference, candidate, datasetOf({ x }), options))
    expect(found).toBe(code)
    expect(message).toMatch(pattern)
  })

  it('refuses labels that no output can be scored with, and logits that do not exist', async () => {
    const session = await open(classifier(1))
    const labelled = datasetOf({ x }, new Array(10).fill(0))
    const none = await codeOf(compareModels(session, session, labelled, { ...options, logits: [] }))
    expect(none[0]).toBe('data')
    expect(none[1]).toMatch(/labels were given, but no output/)
    const unknown = await codeOf(compareModels(session, session, labelled, { ...options, logits: ['nope'] }))
    expect(unknown).toEqual(['usage', expect.stringContaining('nope')])
  })

  it('stops between batches when aborted', async () => {
    const session = await open(classifier(1))
    const abort = new AbortController()
    const seen: number[] = []
    const run = compareModels(session, session, datasetOf({ x }), options, {
      signal: abort.signal,
      onProgress: ({ done }) => {
        seen.push(done)
        abort.abort()
      },
    })
    expect((await codeOf(run))[0]).toBe('interrupted')
    expect(seen).toEqual([4])
  })
})
