import { describe, expect, it } from 'vitest'
import { encoderDecoder, residualConvNet, runModel, transformer } from './streamModels.ts'
import { MEAN_FORMS, PLAIN_FORMS } from './streamParts.ts'

describe('models of streams', () => {
  it('run in onnxruntime in every form', async () => {
    const models = [
      ...[...MEAN_FORMS, ...PLAIN_FORMS].map((norm) => transformer({ norm, bias: true })),
      // onnxruntime has the contributed skip norms in float only.
      ...[...MEAN_FORMS, ...PLAIN_FORMS]
        .filter((norm) => !norm.startsWith('skip'))
        .map((norm) => transformer({ norm, type: 'double' })),
      transformer({ linear: 'gemm', bias: true, head: 'gemm', positions: true }),
      transformer({ head: 'transpose', kvHeads: 2 }),
      transformer({ front: 'patches', attention: 'fused' }),
      transformer({ arrangement: 'post' }),
      transformer({ arrangement: 'sandwich', norm: 'simplified' }),
      encoderDecoder(),
      encoderDecoder({ shared: true, head: 'transpose' }),
      residualConvNet(),
      residualConvNet({ batchNorm: true }),
    ]
    for (const model of models) {
      const logits = (await runModel(model)).get('logits')!
      expect(Array.from(logits.data as Float32Array).every(Number.isFinite)).toBe(true)
    }
  })

  it('compute the same in every form of a norm', async () => {
    for (const forms of [MEAN_FORMS, PLAIN_FORMS.filter((norm) => norm !== 'l2')]) {
      const runs = await Promise.all(forms.map((norm) => runModel(transformer({ norm }))))
      const [first, ...others] = runs.map((outputs) => outputs.get('logits')!.data as Float32Array)
      for (const other of others) for (const [i, v] of other.entries()) expect(v).toBeCloseTo(first![i]!, 4)
    }
  })
})
