/**
 * @file LayerNorm as RMSNorm (Pre-RMSNorm, Jiang et al. 2023, section 3.1): where all that is written to a stream has mean zero over the
 * channels, the mean that LayerNorm subtracts is zero. Recentring what is written is exact, as LayerNorm removes the mean anyway, if
 * nothing reads the stream without one.
 */
import type { NodeProto } from '../onnx/proto.ts'
import type { ModelDraft } from './modelDraft.ts'
import type { Norm, ResidualStream } from './stream.ts'

/** True when the means of a stream's vectors reach nothing. */
export function canRecentre({ norms, readers }: ResidualStream): boolean {
  return (
    norms.length > 0 &&
    norms.every(({ kind }) => kind === 'mean') &&
    readers.every(({ norm }) => norm !== undefined && norms.includes(norm))
  )
}

/** The node of a norm that onnxruntime has without the mean, too; undefined for decomposed norms and others. */
function fusedNode({ nodes: [node, ...others] }: Norm): NodeProto | undefined {
  if (!node || others.length > 0) return undefined
  const isStandard = (node.domain === '' || node.domain === 'ai.onnx') && node.opType === 'LayerNormalization'
  const isSkip = node.domain === 'com.microsoft' && node.opType === 'SkipLayerNormalization'
  return isStandard || isSkip ? node : undefined
}

/** True when every norm of a stream can lose its mean. */
export function canSimplify(stream: ResidualStream): boolean {
  return canRecentre(stream) && stream.norms.every((norm) => fusedNode(norm) !== undefined)
}

/**
 * LayerNormalization → SimplifiedLayerNormalization, SkipLayerNormalization → SkipSimplifiedLayerNormalization (onnxruntime's
 * operators; the former is in the default domain). Their biases must be zero by now: they are dropped, as are their further
 * outputs, means and deviations, which nothing reads at inference.
 */
export function simplifyNormsInPlace(draft: ModelDraft, stream: ResidualStream): void {
  for (const norm of stream.norms) {
    const node = draft.nodeOf(fusedNode(norm)!)
    if (node.opType === 'LayerNormalization') {
      node.opType = 'SimplifiedLayerNormalization'
      node.domain = ''
      node.output = node.output.slice(0, 1)
      node.input = node.input.slice(0, 2)
    } else {
      node.opType = 'SkipSimplifiedLayerNormalization'
      node.output = node.output.map((name, i) => (i === 1 || i === 2 ? '' : name))
      const [input, skip, gain, , bias] = node.input
      node.input = [input!, skip!, gain!, ...(bias ? [bias] : [])]
    }
  }
}
