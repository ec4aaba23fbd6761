/** @file Evaluation data as the configuration asks for it: files, or made-up samples that fit the reference model. */
import type { EvalConfig } from '../config.ts'
import { openConfiguredData } from '../data/configured.ts'
import type { Dataset } from '../data/dataset.ts'
import type { ModelInput } from '../data/modelInput.ts'
import { randomDataset } from '../data/randomInputs.ts'
import { modelLayers } from '../onnx/layers.ts'
import { loadModel } from '../onnx/load.ts'

/** What `evaluate` calls once it knows the reference's inputs. */
export function openEvaluationData(
  config: EvalConfig,
  referencePath: string,
): (inputs: readonly ModelInput[]) => Promise<Dataset> {
  return async (inputs) => {
    if (config.data.length > 0) {
      return openConfiguredData(config, inputs, referencePath, { labels: config.labels })
    }
    return randomDataset(inputs, config.random, config.seed, {
      bounds: tableSizes(referencePath),
      constants: config.set,
      shapes: config.shapes,
    })
  }
}

/** Inputs that look up rows of a table, with the number of its rows: random indices must stay below it. */
function tableSizes(path: string): Record<string, number> {
  const { index, layers } = modelLayers(loadModel(path).proto)
  const main = index.scopes[0]!
  const sizes: Record<string, number> = {}
  for (const { uses, dims } of layers) {
    for (const use of uses) {
      if (use.node.opType !== 'Gather' || use.inputIndex !== 0) continue
      const input = sourceInput(use.node.input[1]!)
      if (input) sizes[input] = Math.min(sizes[input] ?? Number.POSITIVE_INFINITY, (use.dims ?? dims)[0]!)
    }
  }
  return sizes

  /** Through the casts that exporters put between an input and a lookup. */
  function sourceInput(name: string): string | undefined {
    if (main.graph!.input.some((input) => input.name === name)) return name
    const producer = main.producers.get(name)
    return producer && ['Cast', 'Identity'].includes(producer.opType) ? sourceInput(producer.input[0]!) : undefined
  }
}
