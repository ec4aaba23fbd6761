/** @file Codebooks among the candidates of layers: which there are, which the user asks for, and which are of one kind. */
import { codebookBits, codebookForm, codebookNamed, windowAsked } from '../codebook/codebookForms.ts'
import type { QuantizeConfig } from '../config.ts'
import type { WeightedLayer } from '../onnx/layers.ts'
import type { LayerChoice } from '../onnx/represent/plan.ts'
import type { CodebookForm } from '../quant/codebookWeight.ts'

/** What decides about the candidates with codebooks; a group size of its own where the user gave one. */
export type CodebookQuestion = Pick<QuantizeConfig, 'codebook' | 'rowGroups' | 'trellisWindow' | 'groupSize'>

/**
 * Weights of a model up to which light codebooks compete: looking tables up takes 11 to 17 bytes a weight while the model
 * is loaded, where most grids take none.
 */
const MOST_WEIGHTS = 20e6

/**
 * Grids alone unless the method is `codebook`, and where light ones would not be. Of an analysis any window is taken.
 */
export function codebookQuestion(
  config: QuantizeConfig,
  layers: readonly WeightedLayer[],
): CodebookQuestion | undefined {
  if (config.method !== 'codebook') return undefined
  if (config.codebook !== 'light') return config
  if (layers.reduce((sum, { weights }) => sum + weights, 0) > MOST_WEIGHTS) return undefined
  return config.analysis === undefined ? config : { ...config, codebook: 'auto' }
}

/**
 * Choices with the codebook that a setting stands for, the widest first: at each width that it has, a scale for each row unless
 * the user gave a group size. Group sizes do not compete here, as a table follows the weights where a grid needs short groups.
 * @param layers all layers of the model: its size decides the window of a trellis.
 * @returns for each width, what it is in a layer.
 */
export function codebookChoices(
  layers: readonly WeightedLayer[],
  { codebook, rowGroups, groupSize = 'channel', ...settings }: CodebookQuestion,
): ((layer: WeightedLayer) => LayerChoice)[] {
  const name = codebookNamed({ codebook })
  const trellisWindow = windowAsked({ codebook, ...settings })
  const weights = layers.reduce((sum, layer) => sum + layer.weights, 0)
  return codebookBits(name).map((bits) => ({ view, runs }) => {
    const form = codebookForm(name, bits, view.outer * view.inner, { rowGroups, trellisWindow, weights }, runs)
    // Tables have no zero points.
    return { bits, groupSize, symmetric: 'yes', codebook: form }
  })
}

/**
 * Is a measured candidate one of those that the user asks for? `auto` takes any codebook that was measured.
 * @param choice with a codebook.
 */
export function isAskedCodebook(
  { bits, groupSize, codebook: form }: LayerChoice,
  layer: WeightedLayer,
  layers: readonly WeightedLayer[],
  question: CodebookQuestion,
): boolean {
  if (groupSize !== (question.groupSize ?? 'channel')) return false
  if (question.codebook === 'auto' && question.trellisWindow === 'auto') return true
  const wanted = codebookChoices(layers, question)
    .map((choiceOf) => choiceOf(layer))
    .find((choice) => choice.bits === bits)?.codebook
  if (!wanted || kindOf(wanted) !== kindOf(form!)) return false
  return question.rowGroups === 'auto' || wanted.tables === form!.tables
}

/** Equal for choices that are the same in all layers, though layers of fewer rows have fewer tables. */
export function choiceKey({ bits, groupSize, symmetric, codebook }: LayerChoice): string {
  return [bits, groupSize, symmetric, ...(codebook ? [kindOf(codebook)] : [])].join(' ')
}

function kindOf({ coding, tables, shared, permuted, runs }: CodebookForm): string {
  switch (coding.kind) {
    case 'vector':
      return `vectors of ${coding.dim}`
    case 'trellis':
      return `trellis of ${coding.window}`
    case 'scalar':
      if (shared) return 'fixed table'
      return tables > 1 && !permuted && !runs ? 'table per row' : 'tables of groups'
  }
}
