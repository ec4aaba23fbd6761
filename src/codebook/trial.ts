/** @file A change of a layer's tables or codes, judged before it is taken: its errors, and the loss of each row by them. */
import { type Descent, residualsOf } from '../gptq/descent.ts'
import type { CodebookLayer } from './codebookLayer.ts'
import { codebookColumns } from './columns.ts'

/** What the layer is as it stands, while the descent's errors are still those of before. */
export interface Trial {
  /** E = W* − Ŵ, [K, N]. */
  readonly errors: Float32Array
  /** E·H_d·Eᵀ of each row, [N]. */
  readonly losses: Float64Array
}

const PANEL = 256

/** Judge the layer as it stands. One product. */
export async function tryLayer(descent: Descent<CodebookLayer>): Promise<Trial> {
  const { rows } = descent.layer
  const errors = errorsOf(descent.layer)
  const losses = new Float64Array(rows)
  await forPanels(descent, errors, (from, width, panel) => {
    for (let k = 0; k < width; k++) {
      for (let row = 0; row < rows; row++) losses[row]! += errors[(from + k) * rows + row]! * panel[row * width + k]!
    }
  })
  return { errors, losses }
}

/** The descent goes on from the trial in this row. */
export function takeRowInPlace({ layer, errors }: Descent<CodebookLayer>, trial: Trial, row: number): void {
  const { rows, cols, rowLoss, rowSquares } = layer
  rowLoss[row] = trial.losses[row]!
  let squares = 0
  for (let k = 0; k < cols; k++) {
    const error = trial.errors[k * rows + row]!
    errors[k * rows + row] = error
    squares += error * error
  }
  rowSquares[row] = squares
}

/** R = errors·H_d, so many columns at a time. @param visit gets [N, width], which the next one overwrites. */
export async function forPanels(
  descent: Descent<CodebookLayer>,
  errors: Float32Array,
  visit: (from: number, width: number, panel: Float32Array) => void,
): Promise<void> {
  const { rows, cols } = descent.layer
  const room = new Float32Array(rows * Math.min(PANEL, cols))
  for (let from = 0; from < cols; from += PANEL) {
    const width = Math.min(PANEL, cols - from)
    visit(from, width, await residualsOf({ ...descent, errors }, from, width, room.subarray(0, rows * width)))
  }
}

/** E = W* − Ŵ, [K, N]. */
function errorsOf(layer: CodebookLayer): Float32Array {
  const { rows, cols, groups, groupSize, scales, target } = layer
  const errors = new Float32Array(rows * cols)
  const levels = new Float64Array(rows)
  const columns = codebookColumns(layer)
  for (let k = 0; k < cols; k++) {
    columns.levels(k, 0, rows, levels)
    const group = (k / groupSize) | 0
    for (let row = 0; row < rows; row++) {
      errors[k * rows + row] = target[row * cols + k]! - Math.fround(levels[row]! * scales[row * groups + group]!)
    }
  }
  return errors
}
