/** @file One layer under one candidate: target, solver, bias; block by block where the layer has several Hessians. */
import type { Mapping } from '../codebook/codebookForms.ts'
import { type CodebookOptions, codebookOptions, draftOf } from '../codebook/codebookOptions.ts'
import { type CodebookSolution, solveCodebook } from '../codebook/solveCodebook.ts'
import { type Solution, solveLayer } from '../gptq/solveLayer.ts'
import { driftOf } from '../hessian/drift.ts'
import { layerHessian } from '../hessian/layerHessian.ts'
import { LADDER_GROWTH, type Order, type PreparedHessian, prepareHessian } from '../hessian/prepare.ts'
import type { InputStatistics } from '../hessian/statistics.ts'
import type { GridCandidate } from '../quant/candidates.ts'
import { dequantizeRow, type GridWeight, groupsPerRow, type QuantizedWeight } from '../quant/quantizedWeight.ts'
import type { Products } from '../runtime/products.ts'
import type { KernelPool } from '../threads/pool.ts'
import { scalesAsPlanned } from './layerScales.ts'
import type { Member } from './members.ts'

/** What the solver is told. */
export interface Candidate {
  /** Share of the drift that the target follows. */
  readonly alpha: number
  /** Orders of the columns; with several, each row takes the one that suits it best. */
  readonly orders: readonly Order[]
  /** First grids besides each layer's own, which is always tried; each row takes the best. */
  readonly grids: readonly GridCandidate[]
  /** The bias takes the mean error: the solver sees covariances. */
  readonly centred: boolean
  /** λ as a share of the mean of diag H, before the ladder. */
  readonly damping: number
  /** How codes of tables are found; undefined for `descent`. */
  readonly mapping?: Mapping | undefined
}

type Preparation = Pick<Candidate, 'centred' | 'damping'> & { readonly order: Order }

function keyOf({ order, centred, damping }: Preparation): string {
  return `${order} ${centred} ${damping}`
}

export interface SolverTools {
  readonly pool: KernelPool
  readonly products: Products
  readonly signal: AbortSignal | undefined
}

/** Hessians of a group under one way of centring and ordering, made when first asked for. */
export class GroupHessians {
  readonly #statistics: readonly InputStatistics[]
  readonly #tools: SolverTools
  /** Large ones are kept for one candidate at a time. */
  readonly #kept = new Map<string, (PreparedHessian | undefined)[]>()
  readonly #drifts = new Map<string, (Float32Array | undefined)[]>()
  readonly #relative = new Map<string, number>()
  #dead = 0

  constructor(statistics: readonly InputStatistics[], tools: SolverTools) {
    this.#statistics = statistics
    this.#tools = tools
  }

  get blocks(): number {
    return this.#statistics.length
  }

  /** λ that a preparation came to, as a share of the mean of diag H; the largest of all blocks. */
  dampingOf(preparation: Preparation): number {
    return this.#relative.get(keyOf(preparation)) ?? preparation.damping
  }

  /** Most inputs of a block that are always zero, or constant where a bias takes them. */
  get deadInputs(): number {
    return this.#dead
  }

  statistics(block: number): InputStatistics {
    return this.#statistics[block]!
  }

  /** Undefined where no damping made it positive definite. */
  async prepared(block: number, preparation: Preparation): Promise<PreparedHessian | undefined> {
    const { order, centred, damping } = preparation
    const key = keyOf(preparation)
    if (!this.#kept.has(key) && this.#statistics[0]!.cols > LARGE_COLS) this.#kept.clear()
    const list = this.#kept.get(key) ?? []
    this.#kept.set(key, list)
    if (block in list) return list[block]
    const statistics = { ...this.#statistics[block]!, cross: undefined, crossSum: undefined }
    const { hessian, cols } = layerHessian(statistics, centred)
    const made = await prepareHessian(hessian, cols, { damping, order }, this.#tools.products)
    const prepared = 'failed' in made ? undefined : made
    list[block] = prepared
    if (prepared) {
      this.#dead = Math.max(this.#dead, prepared.dead.length)
      const relative = damping * LADDER_GROWTH ** (prepared.dampingTries - 1)
      this.#relative.set(key, Math.max(this.#relative.get(key) ?? 0, relative))
    }
    return prepared
  }

  /** (G − H)·H_d⁻¹; undefined without drift. */
  async drift(block: number, prepared: PreparedHessian, centred: boolean): Promise<Float32Array | undefined> {
    const key = `${centred} ${prepared.damping}`
    if (!this.#drifts.has(key) && this.#statistics[0]!.cols > LARGE_COLS) this.#drifts.clear()
    const list = this.#drifts.get(key) ?? []
    this.#drifts.set(key, list)
    if (block in list) return list[block]
    const { hessian, cross } = layerHessian(this.#statistics[block]!, centred)
    const drift = cross && (await driftOf(hessian, cross, prepared, this.#tools.products))
    list[block] = drift
    return drift
  }

  get hasDrift(): boolean {
    return this.#statistics.some(({ cross }) => cross !== undefined)
  }
}

/** Above this many columns only one candidate's factors are kept: 2 · 4 · K² bytes each. */
const LARGE_COLS = 1024

/**
 * Solve one layer.
 * @param draft candidates are only compared: a codebook may be searched in less than its full form.
 * @returns undefined where a Hessian could not be factored.
 */
export async function solveMember(
  member: Member,
  hessians: GroupHessians,
  candidate: Candidate,
  tools: SolverTools,
  draft = false,
): Promise<QuantizedWeight | undefined> {
  const { plan, rows } = member
  const options = codebookOptions(plan, candidate.mapping)
  const weight = options
    ? await solveOnCodebook(member, draft ? draftOf(options) : options, hessians, candidate, tools)
    : await solveOnGrids(member, hessians, candidate, tools)
  return weight && scalesAsPlanned(plan, rows, weight)
}

/** The rows on the best of the candidate's grids and the member's own, each from the best of several orders. */
async function solveOnGrids(
  member: Member,
  hessians: GroupHessians,
  candidate: Candidate,
  tools: SolverTools,
): Promise<GridWeight | undefined> {
  const { plan, rows } = member
  const cols = plan.layer.view.reduction
  const perBlock = rows.length / cols / hessians.blocks
  const centred = candidate.centred && member.site !== undefined
  const own = member.grid!
  const grids = [own, ...candidate.grids.filter((grid) => isOther(grid, own))]
  const solve = async (scaleType: 'auto' | 'float32') => {
    const parts: GridWeight[] = []
    for (const { block, first, count } of partsOf(hessians.blocks, perBlock, cols)) {
      const own = rows.subarray(first * cols, (first + count) * cols)
      let target: Float32Array | undefined
      let best: Solution | undefined
      for (const order of candidate.orders) {
        const prepared = await hessians.prepared(block, { ...candidate, order, centred })
        if (!prepared) return undefined
        const drift = candidate.alpha > 0 ? await hessians.drift(block, prepared, centred) : undefined
        target ??= drift ? await movedTarget(own, count, cols, drift, candidate.alpha, tools.products) : own
        const problem = { target, rows: count, cols, hessian: prepared }
        for (const grid of grids) {
          const { bits, groupSize } = plan
          const solution = await solveLayer(problem, { bits, groupSize, grid, scaleType }, tools)
          if (!best) best = solution
          else if (best.weight.scaleType === solution.weight.scaleType) takeBetterRowsInPlace(best, solution)
        }
      }
      parts.push(best!.weight)
      // Of a large layer, what one part has left in memory must not pile up with the next one's.
      if (rows.length > PART_WEIGHTS) await tools.pool.collect(BYTES_PER_WEIGHT * count * cols)
    }
    return parts
  }
  let parts = await solve('auto')
  if (parts?.some(({ scaleType }) => scaleType !== parts![0]!.scaleType)) parts = await solve('float32')
  return parts && joinRows(parts)
}

/**
 * A layer that gets a codebook: all its rows at once, which share tables or follow each other in lanes, so that the best of
 * several orders is taken as a whole.
 */
async function solveOnCodebook(
  { rows, site }: Member,
  options: CodebookOptions,
  hessians: GroupHessians,
  { alpha, orders, centred: wantsCentred, damping }: Candidate,
  tools: SolverTools,
): Promise<QuantizedWeight | undefined> {
  const { cols } = hessians.statistics(0)
  const count = rows.length / cols
  const centred = wantsCentred && site !== undefined
  let target: Float32Array | undefined
  let best: CodebookSolution | undefined
  for (const order of orders) {
    const prepared = await hessians.prepared(0, { order, centred, damping })
    if (!prepared) return undefined
    const drift = alpha > 0 ? await hessians.drift(0, prepared, centred) : undefined
    target ??= drift ? await movedTarget(rows, count, cols, drift, alpha, tools.products) : rows
    const solution = await solveCodebook({ target, rows: count, cols, hessian: prepared }, options, tools)
    if (!best || solution.loss < best.loss) best = solution
  }
  return best!.weight
}

/** What the solver leaves in memory. */
export const BYTES_PER_WEIGHT = 40
/** Most weights that are solved at a time. */
const PART_WEIGHTS = 2 ** 21

/** Rows that are solved together: they are independent, given the Hessian of their block. */
function partsOf(blocks: number, perBlock: number, cols: number) {
  const most = Math.max(1, Math.floor(PART_WEIGHTS / cols))
  const parts: { readonly block: number; readonly first: number; readonly count: number }[] = []
  for (let block = 0; block < blocks; block++) {
    for (let row = 0; row < perBlock; row += most) {
      parts.push({ block, first: block * perBlock + row, count: Math.min(most, perBlock - row) })
    }
  }
  return parts
}

/** W* = W + α·W·D in shared memory (algorithms: the asymmetric objective is the plain one for a moved target). */
async function movedTarget(
  weight: Float32Array,
  rows: number,
  cols: number,
  drift: Float32Array,
  alpha: number,
  products: Products,
): Promise<Float32Array> {
  const moved = await products.multiply({ a: weight, aRows: rows, aCols: cols, b: drift, bRows: cols, bCols: cols })
  const target = new Float32Array(new SharedArrayBuffer(rows * cols * 4))
  for (let i = 0; i < target.length; i++) target[i] = weight[i]! + alpha * moved[i]!
  return target
}

/** Grids of one scheme store the same tensors, so that rows of both may stand in one layer. */
function isOther(grid: GridCandidate, own: GridCandidate): boolean {
  return grid.method !== own.method && (grid.scheme === 'asymmetric') === (own.scheme === 'asymmetric')
}

/** Rows of which the other solution has the smaller loss. */
function takeBetterRowsInPlace(best: Solution, other: Solution): void {
  const { cols, groupSize, codes, scales, zeroPoints } = best.weight
  const groups = groupsPerRow(cols, groupSize)
  other.rowLoss.forEach((loss, row) => {
    if (!(loss < best.rowLoss[row]!)) return
    best.rowLoss[row] = loss
    codes.set(other.weight.codes.subarray(row * cols, (row + 1) * cols), row * cols)
    scales.set(other.weight.scales.subarray(row * groups, (row + 1) * groups), row * groups)
    zeroPoints?.set(other.weight.zeroPoints!.subarray(row * groups, (row + 1) * groups), row * groups)
  })
}

function joinRows(parts: readonly GridWeight[]): GridWeight {
  const [first] = parts
  if (parts.length === 1) return first!
  const rows = parts.reduce((sum, part) => sum + part.rows, 0)
  const groups = groupsPerRow(first!.cols, first!.groupSize)
  const codes = new Uint8Array(rows * first!.cols)
  const scales = new Float32Array(rows * groups)
  const zeroPoints = first!.zeroPoints && new Uint8Array(rows * groups)
  let row = 0
  for (const part of parts) {
    codes.set(part.codes, row * part.cols)
    scales.set(part.scales, row * groups)
    zeroPoints?.set(part.zeroPoints!, row * groups)
    row += part.rows
  }
  return { ...first!, rows, codes, scales, zeroPoints }
}

/**
 * What the bias must make up for, row by row: W·E[x_f] − Ŵ·E[x_q].
 * @param rows W [N, K].
 */
export function meanError(rows: Float32Array, weight: QuantizedWeight, hessians: GroupHessians): Float64Array {
  const { cols } = weight
  const errors = new Float64Array(weight.rows)
  const perBlock = weight.rows / hessians.blocks
  const real = new Float32Array(cols)
  for (let row = 0; row < weight.rows; row++) {
    const { sum, crossSum, weight: total } = hessians.statistics(Math.floor(row / perBlock))
    dequantizeRow(weight, row, real)
    let error = 0
    for (let k = 0; k < cols; k++) error += rows[row * cols + k]! * (crossSum ?? sum)[k]! - real[k]! * sum[k]!
    errors[row] = total > 0 ? error / total : 0
  }
  return errors
}
