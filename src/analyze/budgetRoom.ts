/**
 * @file Allocations within budgets on the whole file: the room for weights is what nodes and names leave of it, which is known
 * only when an allocation is; and tables that layers share are paid for once, by a set of them at a time.
 */
import type { Budget } from '../bitalloc/budget.ts'
import { QtoolError } from '../errors.ts'
import { type Allocation, type AllocationTask, allocate } from './allocate.ts'
import { type Item, type Limit, limitsOfBudgets } from './allocationProblem.ts'
import type { LayerOptions } from './measuredLayers.ts'
import { bytesAround, leastOptions, storedBytes } from './optionBytes.ts'
import { byReliability } from './proposals.ts'
import { sharedBytes, tableSets } from './sharedTables.ts'

export interface BudgetQuestion {
  readonly layers: readonly LayerOptions[]
  readonly items: readonly Item[]
  readonly budgets: readonly Budget[]
  /** Of output files, where some budget is about them. */
  readonly byteLimit: number | undefined
  /** Bytes to be kept free. */
  readonly reserve: number
  readonly latency: Limit | undefined
  /** Output files of a configuration. */
  readonly bytes: (options: Allocation['options']) => number
}

/** What there is to choose from with one set of shared tables, and the limits that they leave. */
export interface Room {
  readonly items: readonly Item[]
  /** @param otherBytes of the file, besides weights, tables, and what is counted around each weight. */
  readonly limitsWith: (otherBytes: number) => Limit[]
  /** Those bytes in a configuration whose files take `total`. */
  readonly otherThan: (options: Allocation['options'], total: number) => number
  /** The same where every item takes the least. */
  readonly otherBytes: number
}

/** One room for each set of tables, the one with the fewest first; a single one where layers share none. */
export function roomsOf(question: BudgetQuestion): Room[] {
  const { layers, items: all, budgets, byteLimit, reserve, latency, bytes } = question
  const around = byteLimit === undefined ? [] : bytesAround(layers, all, bytes)
  return tableSets(layers, all).map(({ items, bytes: tableBytes }): Room => {
    const otherThan: Room['otherThan'] = (options, total) =>
      total -
      storedBytes(layers, options) -
      sharedBytes(layers, options) -
      options.reduce<number>((sum, k, l) => sum + (k === undefined ? 0 : around[l]![k]!), 0)
    const least = leastOptions(layers, items)
    return {
      items,
      otherThan,
      otherBytes: byteLimit === undefined ? 0 : otherThan(least, bytes(least)),
      limitsWith: (otherBytes) => {
        const limits = limitsOfBudgets(budgets, layers, all, { byteLimit, otherBytes }).map((limit) => {
          if (limit.name !== 'bytes') return limit
          return { ...limit, costs: limit.costs.map((own, l) => own.map((cost, k) => cost + around[l]![k]!)) }
        })
        const units: Readonly<Record<string, number>> = { bytes: 1, 'stored bits': 8 }
        const lowered = limits.map((limit) => ({
          ...limit,
          limit: limit.limit - Math.ceil((reserve + tableBytes) * (units[limit.name] ?? 0)),
        }))
        return latency ? [...lowered, latency] : lowered
      },
    }
  })
}

/** Times that the room for weights is corrected by what the whole file really takes. */
const CORRECTIONS = 6
/** Room that is left is used when it is more than this share of the budget. */
const LEFT_OVER = 0.002

/**
 * Allocate in a room.
 * @param isBetter true where the first is at least as good as the second.
 * @returns undefined where no allocation was found that keeps the budget in bytes.
 * @throws QtoolError `infeasible` as {@link allocate}.
 */
export async function allocateInRoom(
  base: Omit<AllocationTask, 'limits'>,
  room: Room,
  { byteLimit, reserve, bytes }: BudgetQuestion,
  isBetter: (one: Allocation, other: Allocation) => boolean,
): Promise<Allocation | undefined> {
  const task = { ...base, items: room.items }
  let { otherBytes } = room
  if (byteLimit === undefined) return allocate({ ...task, limits: room.limitsWith(otherBytes) })
  const allowed = byteLimit - Math.ceil(reserve)
  let best: Allocation | undefined
  for (let i = 0; i < CORRECTIONS; i++) {
    // Only what is written counts: the first allocations find out how much that is beside the weights.
    const isRough = best === undefined && i < 2
    const limits = room.limitsWith(otherBytes)
    const allocation = await allocate({ ...task, limits, ...(isRough ? { evaluate: undefined } : {}) })
    const total = bytes(allocation.options)
    otherBytes = room.otherThan(allocation.options, total)
    if (total > allowed || isRough) continue
    // A later one has other room for weights, not always more.
    if (best === undefined || isBetter(allocation, best)) best = allocation
    if (allowed - total <= LEFT_OVER * allowed) break
  }
  return best
}

/**
 * The room in which the least loss is predicted. Without any of the tables, what is left are grids and tables of layers' own,
 * so tables are shared only where that pays for their bytes.
 * @throws QtoolError `infeasible` when there is no allocation in any of them.
 */
export async function bestRoom(
  base: Omit<AllocationTask, 'limits'>,
  rooms: readonly Room[],
  question: BudgetQuestion,
): Promise<Room> {
  if (rooms.length === 1) return rooms[0]!
  const [first] = byReliability(base)
  // Losses of pairs take long to solve for, and rooms differ by a little.
  const sensitivity = first === 'pairwise' || first === 'clado' ? 'kl' : first!
  const quick = { ...base, sensitivities: [sensitivity], evaluate: undefined }
  const lossOf = (found: Allocation | undefined) => (found ? found.proposals[0]!.predicted! : Number.POSITIVE_INFINITY)
  const losses: number[] = []
  let reason: unknown
  for (const { items, limitsWith, otherBytes } of rooms) {
    try {
      losses.push(lossOf(await allocate({ ...quick, items, limits: limitsWith(otherBytes) })))
    } catch (error) {
      if (!(error instanceof QtoolError) || error.code !== 'infeasible') throw error
      reason = error
      losses.push(Number.POSITIVE_INFINITY)
    }
  }
  const best = losses.indexOf(Math.min(...losses))
  if (losses[best] === Number.POSITIVE_INFINITY) throw reason
  if (best === 0 || question.byteLimit === undefined || losses[0] === Number.POSITIVE_INFINITY) return rooms[best]!
  // What lies around the weights was a guess so far, and may be more than what tables gain.
  const isBetter = (one: Allocation, other: Allocation) => lossOf(one) <= lossOf(other)
  const inRoom = async (room: Room) => lossOf(await allocateInRoom(quick, room, question, isBetter))
  return (await inRoom(rooms[0]!)) <= (await inRoom(rooms[best]!)) ? rooms[0]! : rooms[best]!
}
