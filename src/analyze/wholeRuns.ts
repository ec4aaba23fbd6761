/** @file Measures that take runs of the whole network: all layers at one width, all but one, drawn configurations, pairs. */
import { QtoolError } from '../errors.ts'
import type { RunOptions } from '../progress.ts'
import { makeRandom } from '../random.ts'
import type { MeasuredConfiguration } from './analysis.ts'
import type { Configurations } from './configurations.ts'
import type { LayerOptions } from './measuredLayers.ts'

/** CLADO's pairs are runs of the whole network. */
const MOST_PAIRS = 20000

/** Configurations that are drawn. */
interface Draws {
  readonly count: number
  readonly seed: number
}

/** What takes runs of the whole network. */
export class WholeRuns {
  readonly #layers: readonly LayerOptions[]
  readonly #configurations: Configurations
  readonly #draws: Draws
  readonly #run: RunOptions

  constructor(layers: readonly LayerOptions[], configurations: Configurations, draws: Draws, run: RunOptions) {
    this.#layers = layers
    this.#configurations = configurations
    this.#draws = draws
    this.#run = run
  }

  async #loss(choice: readonly (number | undefined)[], item: string, done = 0, total = 1): Promise<number> {
    this.#run.onProgress?.({ stage: 'measure', done, total, item })
    return (await this.#configurations.evaluate(choice)).mean
  }

  /** All layers at each width. */
  async levels(): Promise<MeasuredConfiguration[]> {
    const layers = this.#layers
    const widths = [...new Set(layers.flatMap(({ options }) => options.map(({ plan }) => plan.bits)))]
    const levels: MeasuredConfiguration[] = []
    for (const [i, width] of widths.sort((a, b) => b - a).entries()) {
      const choice = layers.map(({ options }) => nearestWidth(options, width))
      levels.push({ choice, loss: await this.#loss(choice, `all layers at ${width} bits`, i, widths.length) })
    }
    return levels
  }

  /** [layer][level]: all others at the level. */
  async leaveOneOut(levels: readonly MeasuredConfiguration[]): Promise<number[][]> {
    const layers = this.#layers
    const losses: number[][] = layers.map(() => [])
    let done = 0
    for (const { choice } of levels) {
      for (const [i, { layer }] of layers.entries()) {
        const others = choice.map((option, l) => (l === i ? undefined : option))
        losses[i]!.push(await this.#loss(others, `all but ${layer.name}`, done++, levels.length * layers.length))
      }
    }
    return losses
  }

  async drawn(): Promise<MeasuredConfiguration[]> {
    const layers = this.#layers
    const { count, seed } = this.#draws
    const random = makeRandom(seed)
    const drawn: MeasuredConfiguration[] = []
    for (let i = 0; i < count; i++) {
      const choice = layers.map(({ options }) => Math.floor(random.uniform() * options.length))
      drawn.push({ choice, loss: await this.#loss(choice, 'drawn configurations', i, count) })
    }
    return drawn
  }

  /** CLADO's pairs. */
  async pairs(): Promise<[number, number, number, number, number][]> {
    const layers = this.#layers
    const places = layers.flatMap(({ options }, layer) => options.map((_, option) => ({ layer, option })))
    const pairs = places.flatMap((a, i) =>
      places.slice(i + 1).flatMap((b) => (b.layer > a.layer ? [[a, b] as const] : [])),
    )
    if (pairs.length > MOST_PAIRS) {
      throw new QtoolError('usage', `clado: ${pairs.length} pairs of candidates would each be run`, {
        hint: 'pairwise estimates the same terms from the single runs; or fix widths with --layer or --bits',
      })
    }
    const losses: [number, number, number, number, number][] = []
    for (const [i, [a, b]] of pairs.entries()) {
      const choice = layers.map((_, l) => (l === a.layer ? a.option : l === b.layer ? b.option : undefined))
      losses.push([a.layer, a.option, b.layer, b.option, await this.#loss(choice, 'pairs', i, pairs.length)])
    }
    return losses
  }
}

/** The option of a width, or the nearest one; of one width the first, and a grid rather than a codebook. */
function nearestWidth(options: LayerOptions['options'], width: number): number {
  const isOnGrid = options.some(({ plan }) => !plan.codebook)
  const distance = (k: number) => {
    const { bits, codebook } = options[k]!.plan
    return codebook && isOnGrid ? Number.POSITIVE_INFINITY : Math.abs(bits - width)
  }
  return options.reduce((best, _, k) => (distance(k) < distance(best) ? k : best), 0)
}
