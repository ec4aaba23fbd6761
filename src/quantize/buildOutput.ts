/** @file The model as it will be written, built from the source and the packed layers; contents may still be unknown. */
import type { QuantizeConfig } from '../config.ts'
import { cloneModel } from '../onnx/clone.ts'
import { modelLayers, type WeightedLayer } from '../onnx/layers.ts'
import { INLINE_LIMIT, type OnnxModel, type Payload } from '../onnx/model.ts'
import { raiseOpset } from '../onnx/opset.ts'
import { applyLayersInPlace, type WrittenUse } from '../onnx/represent/apply.ts'
import type { LayerPlan, Target } from '../onnx/represent/plan.ts'
import { plannedScales, type StoredTensor, storedTensors } from '../onnx/represent/stored.ts'
import { type BiasEdit, setBiasInPlace } from './biasEdits.ts'
import { type GridChoice, writeMetadataInPlace } from './metadata.ts'

/** A quantized layer's tensors and their bytes, with how its grid was chosen; undefined for a codebook. */
export interface StoredLayer {
  readonly plan: LayerPlan
  readonly choice: GridChoice | undefined
  readonly tensors: readonly StoredTensor[]
  readonly payloads: readonly Payload[]
}

export interface BuiltOutput {
  readonly model: OnnxModel
  readonly written: readonly WrittenUse[]
}

/** Versions and digests that go into the metadata. */
export interface Provenance {
  readonly version: string
  readonly sha256: readonly string[]
}

/** Build the output; the source is not touched. */
export function buildOutput(
  source: OnnxModel,
  layers: readonly StoredLayer[],
  biases: readonly BiasEdit[],
  target: Target,
  config: QuantizeConfig,
  provenance: Provenance,
): BuiltOutput {
  const model = cloneModel(source)
  for (const edit of biases) setBiasInPlace(model, edit)
  raiseOpset(model.proto, target.opset)
  // The copy has nodes of its own: find the same layers again, in the same order, and put the plans on them.
  const own = new Map(modelLayers(model.proto).layers.map((layer) => [layer.name, layer]))
  const packed = layers.map(({ plan, tensors, payloads }) => ({
    plan: { ...plan, layer: own.get(plan.layer.name) as WeightedLayer },
    tensors,
    payloads,
  }))
  const written = applyLayersInPlace(model, packed, target.accuracyLevel)
  const plans = layers.map(({ plan }) => plan)
  const choices = layers.map(({ choice }) => choice)
  writeMetadataInPlace(model.proto, provenance.version, config, provenance.sha256, plans, choices)
  return { model, written }
}

/** A layer as a plan alone can describe it, with contents unknown. Scales may turn out longer. */
export function plannedLayer(plan: LayerPlan, symmetric: boolean): StoredLayer {
  const tensors = storedTensors(plan, symmetric, plannedScales(plan))
  return {
    plan,
    choice: plan.codebook ? undefined : { scheme: 'symmetric-full', method: 'minmax' },
    tensors,
    payloads: tensors.map(({ bytes }) =>
      bytes <= INLINE_LIMIT
        ? { kind: 'memory', byteLength: bytes, bytes: new Uint8Array(bytes) }
        : { kind: 'planned', byteLength: bytes },
    ),
  }
}
