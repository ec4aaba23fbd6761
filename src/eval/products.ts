/** @file The low-bit products (MatMulNBits) of a model, and of the graph that the runtime made of it. */
import { intAttribute } from '../onnx/attributes.ts'
import { findConstant, indexModel, nodesOf, type Scope } from '../onnx/graph.ts'
import { DataType, type ModelProto, type NodeProto } from '../onnx/proto.ts'
import { nodeLabel } from './execution.ts'
import type { ExecutedNode } from './profile.ts'
import { ProfileIndex } from './profileIndex.ts'

function productsByScope(model: ModelProto): { node: NodeProto; scope: Scope }[] {
  return indexModel(model).scopes.flatMap((scope) =>
    nodesOf(scope)
      .filter((node) => node.opType === 'MatMulNBits')
      .map((node) => ({ node, scope })),
  )
}

/** MatMulNBits nodes of a model, those in subgraphs and functions included. */
export function productsOf(model: ModelProto): NodeProto[] {
  return productsByScope(model).map(({ node }) => node)
}

/** How many MatMulNBits nodes ran that are not in the model: the runtime made them of DequantizeLinear and MatMul. */
export function countFusedProducts(model: ModelProto, executed: readonly ExecutedNode[]): number {
  const ran = new Set(executed.filter((node) => node.operator === 'MatMulNBits').map((node) => node.name))
  const profile = new ProfileIndex(executed)
  const own = productsByScope(model).filter(({ node, scope }) => profile.find(node, scope).length > 0)
  return ran.size - own.length
}

/**
 * What to know about products for which onnxruntime's CPU kernels decode the weight in every run instead of computing on
 * its codes (measured on x86-64: 2 to 50 times slower than float32).
 */
export function slowProductWarnings(model: ModelProto): string[] {
  const reasons = new Map<string, string[]>()
  for (const { node, scope } of productsByScope(model)) {
    const reason = slowReason(node, scope)
    if (reason === undefined) continue
    const names = reasons.get(reason)
    if (names) names.push(nodeLabel(node))
    else reasons.set(reason, [nodeLabel(node)])
  }
  return [...reasons].map(
    ([reason, names]) =>
      `${names.length} MatMulNBits ${names.length === 1 ? 'node has' : 'nodes have'} no fast CPU kernel: ${reason} ` +
      `(${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''})`,
  )
}

function slowReason(node: NodeProto, scope: Scope): string | undefined {
  const bits = intAttribute(node, 'bits', 4)
  const block = intAttribute(node, 'block_size', 0)
  if (bits !== 4 && intAttribute(node, 'accuracy_level', 0) !== 4) {
    return `${bits}-bit weights need accuracy_level 4`
  }
  if (bits === 2 && (block === 16 || block === 256)) return '2-bit weights need block_size 32, 64 or 128'
  if (node.input[4]) return 'it reorders its weight (g_idx)'
  const zeroPoints = node.input[3] ? findConstant(scope, node.input[3]) : undefined
  if (zeroPoints && zeroPoints.tensor.dataType !== DataType.UINT8) return 'its zero points are floating-point'
  return undefined
}
