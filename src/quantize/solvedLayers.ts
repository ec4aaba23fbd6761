/** @file The layers that are solved so far: packed, counted, and written to the checkpoint of a run that can be resumed. */
import type { Checkpoint } from '../calibration/checkpoint.ts'
import { feedOfFloats, floatsOf } from '../calibration/tensors.ts'
import type { QuantizeConfig } from '../config.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import type { Payload } from '../onnx/model.ts'
import type { LayerPlan } from '../onnx/represent/plan.ts'
import type { GridCandidate } from '../quant/candidates.ts'
import { type QuantizedWeight, squaredErrors } from '../quant/quantizedWeight.ts'
import type { LayerCalibration } from '../report.ts'
import type { BiasEdit } from './biasEdits.ts'
import type { Member } from './members.ts'
import { packQuantized, type QuantizedLayerData } from './quantizeLayers.ts'

/** What was decided for a layer. */
export interface Decision {
  readonly weight: QuantizedWeight
  /** Undefined for a codebook. */
  readonly grid: GridCandidate | undefined
  readonly calibration: LayerCalibration | undefined
  /** The bias with this layer's correction; undefined where it stays. */
  readonly bias: FeedTensor | undefined
}

/** What a checkpoint keeps of a decision besides the numbers. */
interface Info {
  readonly grid: GridCandidate | undefined
  readonly calibration: LayerCalibration | undefined
  readonly positions: number
}

export class SolvedLayers {
  readonly #config: QuantizeConfig
  readonly #sink: (bytes: Uint8Array) => Payload
  readonly #checkpoint: Checkpoint | undefined
  readonly #layers = new Map<LayerPlan, QuantizedLayerData>()
  readonly #biases = new Map<string, BiasEdit>()
  #positions = 0

  constructor(config: QuantizeConfig, sink: (bytes: Uint8Array) => Payload, checkpoint: Checkpoint | undefined) {
    this.#config = config
    this.#sink = sink
    this.#checkpoint = checkpoint
  }

  /** What an earlier run decided for a layer. */
  restored({ plan, site }: Pick<Member, 'plan' | 'site'>): Decision | undefined {
    if (!this.#checkpoint?.solved.has(plan.layer.name)) return undefined
    const { weight, bias, info } = this.#checkpoint.read(plan.layer.name)
    const { grid, calibration, positions } = info as Info
    this.#positions = Math.max(this.#positions, positions)
    return { weight, grid, calibration, bias: bias && site && feedOfFloats(site.dataType, site.dims, bias) }
  }

  /**
   * Keep a decision.
   * @param positions that its statistics are of; 0 without.
   */
  async keep(
    { plan, rows, site }: Pick<Member, 'plan' | 'rows' | 'site'>,
    decision: Decision,
    positions: number,
  ): Promise<void> {
    this.#positions = Math.max(this.#positions, positions)
    const { weight, grid, calibration, bias } = decision
    const { name } = plan.layer
    if (this.#checkpoint && !this.#checkpoint.solved.has(name)) {
      const info: Info = { grid, calibration, positions }
      this.#checkpoint.append({ layer: name, info, weight, bias: bias && floatsOf(bias) })
    }
    const errors = squaredErrors(rows, weight)
    const packed = await packQuantized(plan, { weight, choice: grid, ...errors }, this.#config, this.#sink)
    this.#layers.set(plan, { ...packed, calibration })
    if (site && bias) this.#biases.set(site.added, { site, value: bias })
  }

  /** Most positions that the statistics of a layer are of, in this run or the one that it goes on with. */
  get positions(): number {
    return this.#positions
  }

  /** In the order of the plans. */
  layers(plans: readonly LayerPlan[]): QuantizedLayerData[] {
    return plans.map((plan) => this.#layers.get(plan)!)
  }

  biases(): BiasEdit[] {
    return [...this.#biases.values()]
  }
}
