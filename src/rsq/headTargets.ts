/** @file From the output of an attention on to the projections that read it. */
import type { MainGraph } from '../calibration/mainGraph.ts'
import { intAttribute, intsAttribute } from '../onnx/attributes.ts'
import { isFloatType } from '../onnx/chain.ts'
import { isDefaultDomain } from '../onnx/ranks.ts'
import type { AxisFacts } from './axisFacts.ts'
import type { HeadUse } from './headSources.ts'
import { dataReaders } from './mainReaders.ts'
import { projectionOf } from './products.ts'
import { isOneNumber } from './storedNumbers.ts'

const SAME_INDICES = new Set(['Identity', 'Dropout', 'Reshape', 'Flatten', 'Squeeze', 'Unsqueeze'])

/** Width of the first projection that reads a tensor, through Reshape and the like; undefined where there is none. */
export function widthOfTarget(graph: MainGraph, name: string): number | undefined {
  const seen = new Set<string>()
  for (let at = name; !seen.has(at); ) {
    seen.add(at)
    const [reader] = dataReaders(graph, at)
    if (!reader) return undefined
    const projection = reader.inputIndex === 0 ? projectionOf(graph, reader.node) : undefined
    if (projection) return projection.inputs
    if (!SAME_INDICES.has(reader.node.opType) && reader.node.opType !== 'Cast') return undefined
    at = reader.node.output[0] ?? ''
  }
  return undefined
}

/**
 * The projections that read the heads, all of their inputs being heads.
 * @param name a tensor whose flat index modulo `headSize` is the channel of a head.
 * @param last its last dimension.
 * @returns their uses of the weights, or why something else reads the heads, as the end of a sentence.
 */
export function headTargets(
  facts: AxisFacts,
  name: string,
  headSize: number,
  last: number | undefined,
): HeadUse[] | string {
  const { graph } = facts
  const uses: HeadUse[] = []
  const pending: { name: string; last: number | undefined }[] = [{ name, last }]
  for (let at = pending.pop(); at; at = pending.pop()) {
    if (graph.outputs.includes(at.name)) return 'its heads are an output of the model'
    for (const { node, inputIndex } of dataReaders(graph, at.name)) {
      const obstacle = `${node.opType} '${node.name || node.output[0]}' stands between its heads and a projection`
      if (inputIndex < 0) return obstacle
      const projection = inputIndex === 0 ? projectionOf(graph, node) : undefined
      if (projection) {
        const { constant, inputAxis, inputs } = projection
        if (inputs % headSize !== 0) return obstacle
        const starts = Array.from({ length: inputs / headSize }, (_, head) => head * headSize)
        uses.push({ node, inputIndex: 1, constant, axis: inputAxis, starts })
        continue
      }
      const perm = intsAttribute(node, 'perm')
      const isMultiple = at.last !== undefined && at.last % headSize === 0
      const keepsLast = perm !== undefined && perm.at(-1) === perm.length - 1 && isMultiple
      const factor = node.input[1 - inputIndex]
      const isPassed =
        isDefaultDomain(node.domain) &&
        ((SAME_INDICES.has(node.opType) && inputIndex === 0) ||
          (node.opType === 'Transpose' && keepsLast) ||
          (node.opType === 'Cast' && isFloatType(intAttribute(node, 'to', 0))) ||
          ((node.opType === 'Mul' || (node.opType === 'Div' && inputIndex === 0)) && isOneNumber(graph, factor)))
      if (!isPassed) return obstacle
      const isReshaped = SAME_INDICES.has(node.opType) && node.opType !== 'Identity' && node.opType !== 'Dropout'
      const output = node.output[0]!
      pending.push({ name: output, last: isReshaped ? facts.last(output) : at.last })
    }
  }
  return uses.length > 0 ? uses : 'no projection reads its heads'
}
