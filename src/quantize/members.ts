/** @file A layer as the solver takes it: its rows in shared memory, and the best that its weights alone allow. */
import type { BiasSite } from '../calibration/biasSites.ts'
import { codebookOptions } from '../codebook/codebookOptions.ts'
import { roundToCodebook } from '../codebook/roundToCodebook.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import { type GridCandidate, gridCandidates } from '../quant/candidates.ts'
import type { QuantizedWeight } from '../quant/quantizedWeight.ts'
import { quantizeTensor } from '../quant/quantizeTensor.ts'
import { rowsOf, type StoredWeight } from '../quant/storedWeight.ts'
import { Workspace } from '../quant/workspace.ts'
import { readRows } from './layerRows.ts'
import { scalesAsPlanned } from './layerScales.ts'
import { type LayerSource, readStored, weightErrors } from './readWeight.ts'

/** A layer of a group under solution. */
export interface Member {
  readonly plan: LayerPlan
  /** W [N, K]; in shared memory. */
  readonly rows: Float32Array
  readonly site: BiasSite | undefined
  /** Its best grid by the weights alone, and the codes of rounding onto it; no grid where it gets a codebook. */
  readonly grid: GridCandidate | undefined
  readonly rounded: QuantizedWeight
}

/**
 * Read a layer and round it to nearest.
 * @throws QtoolError `model` when a weight is not a number.
 */
export async function readMember(
  source: Omit<LayerSource, 'workspace'>,
  plan: LayerPlan,
  site: BiasSite | undefined,
  signal: AbortSignal | undefined,
): Promise<Member> {
  const { layer } = plan
  // Memory of its own: the members of a group are needed side by side.
  const stored = readStored({ ...source, workspace: new Workspace() }, layer)
  const { grid, weight } = await weightErrors(source.model.path, layer, () => round(stored, plan, source, signal))
  const rows = new Float32Array(new SharedArrayBuffer(rowsOf(stored) * layer.view.reduction * 4))
  readRows(stored, rows)
  return { plan, rows, site, grid, rounded: scalesAsPlanned(plan, rows, weight) }
}

/** The best that the weights alone allow. */
async function round(
  stored: StoredWeight,
  plan: LayerPlan,
  { pool }: Pick<LayerSource, 'pool'>,
  signal: AbortSignal | undefined,
): Promise<{ readonly grid: GridCandidate | undefined; readonly weight: QuantizedWeight }> {
  const options = codebookOptions(plan)
  if (options) return { grid: undefined, weight: (await roundToCodebook(stored, options, { pool, signal })).weight }
  const { bits, groupSize, symmetric } = plan
  const candidates = gridCandidates('auto', symmetric)
  const { scheme, method, weight } = await quantizeTensor(stored, { bits, groupSize, candidates }, pool, signal)
  return { grid: { scheme, method }, weight }
}

/** The same layer under another plan. */
export async function withPlan(
  source: Pick<LayerSource, 'pool'>,
  { rows, site }: Member,
  plan: LayerPlan,
  signal: AbortSignal | undefined,
): Promise<Member> {
  const { reduction } = plan.layer.view
  const shape = [rows.length / reduction, reduction, 1] as const
  const stored: StoredWeight = { bytes: rows.buffer as SharedArrayBuffer, elementType: 'float32', shape }
  const { grid, weight } = await round(stored, plan, source, signal)
  return { plan, rows, site, grid, rounded: scalesAsPlanned(plan, rows, weight) }
}

/**
 * Grids besides the members' own that are worth a solution: the solver likes other ranges than rounding does. A member
 * takes those that its own plan allows.
 */
export function otherGrids(members: readonly Member[]): GridCandidate[] {
  const wanted = members
    .filter(({ grid }) => grid)
    .map(({ plan }) => (plan.symmetric === 'yes' ? 'symmetric' : 'asymmetric'))
  return gridCandidates('auto', 'auto').filter(({ scheme, method }) => {
    const isOwn = members.every(({ grid }) => grid?.scheme === scheme && grid.method === method)
    const kind = scheme === 'asymmetric' ? 'asymmetric' : 'symmetric'
    return wanted.includes(kind) && method !== 'hqq' && !isOwn
  })
}
