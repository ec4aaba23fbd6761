import { describe, expect, it } from 'vitest'
import { condenseRuntimeMessage, failedNode } from '../../src/runtime/message.ts'

const SOURCE = '/onnxruntime_src/onnxruntime/core'

describe('condenseRuntimeMessage', () => {
  it.each([
    [
      'a path that is said anyway',
      'Load model from /a/b c.onnx failed:Protobuf parsing failed.',
      'Protobuf parsing failed',
    ],
    [
      'a doubled prefix',
      "Load model from /a/m.onnx failed:Load model /a/m.onnx failed. File doesn't exist",
      "File doesn't exist",
    ],
    [
      'a constructor with nested parameters',
      `Load model from m.onnx failed:${SOURCE}/graph/model.cc:187 onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void(int)>&, const onnxruntime::ModelOptions&) ModelProto does not have a graph.\n`,
      'ModelProto does not have a graph',
    ],
    [
      'a template with its arguments, and the condition',
      `Exception during initialization: /onnxruntime_src/onnxruntime/contrib_ops/cpu/quantization/matmul_nbits.cc:130 onnxruntime::contrib::MatMulNBits<T1>::MatMulNBits(const onnxruntime::OpKernelInfo&) [with T1 = float] nbits_ == 2 || nbits_ == 4 was false. Only 2b and 4b are supported.\n`,
      'Only 2b and 4b are supported',
    ],
    [
      'a return type',
      `${SOURCE}/graph/model_load_utils.h:46 void onnxruntime::model_load_utils::Validate(const std::string&, int) ONNX Runtime only *guarantees* support.`,
      'ONNX Runtime only *guarantees* support',
    ],
    [
      'a bare function name',
      'matmul_nbits.cc:326 PrePack MatMulNBits PrePack: B has shape {1}',
      'MatMulNBits PrePack: B has shape {1}',
    ],
    ['a stack trace', 'it failed\nStacktrace:\n/lib/x.so(+0x1)\n', 'it failed'],
    [
      'nothing where there is nothing',
      'Invalid rank for input: x Got: 1 Expected: 2',
      'Invalid rank for input: x Got: 1 Expected: 2',
    ],
    ['everything, but says so', '', 'no reason given'],
  ])('removes %s', (_, message, expected) => {
    expect(condenseRuntimeMessage(message)).toBe(expected)
  })
})

describe('failedNode', () => {
  it('names the innermost node of nested failures', () => {
    const message =
      "Non-zero status code returned while running If node. Name:'it's if' Status Message: Non-zero status code " +
      `returned while running Reshape node. Name:'a/b' Status Message: ${SOURCE}/x.h:91 onnxruntime::F::F(bool) size == want was false. Cannot reshape {3} to {7}\n`
    expect(failedNode(message)).toEqual({ name: 'a/b', operator: 'Reshape', reason: 'Cannot reshape {3} to {7}' })
  })

  it('finds none in a message about inputs', () => {
    expect(failedNode('Invalid rank for input: x')).toBeUndefined()
  })
})
