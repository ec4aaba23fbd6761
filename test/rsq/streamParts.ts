/**
 * @file Parts of small transformers: seeded weights, linear layers and norms in the forms that exporters write.
 */
import {
  type AttributeValue,
  DataType,
  type ModelProto,
  makeModel,
  makeNode,
  makeOpset,
  makeTensor,
  type NodeProto,
  type TensorProto,
  type ValueInfoProto,
} from '../../src/onnx/proto.ts'
import { makeRandom } from '../../src/random.ts'

/**
 * How a norm is written.
 * - `layer` LayerNormalization; `simplified` SimplifiedLayerNormalization; `rms23` RMSNormalization of opset 23
 * - `skip`, `skipSimplified` com.microsoft operators that add first
 * - `rmsDiv` Pow, ReduceMean, Add, Sqrt, Div, Mul(n, γ); `rmsMul` Mul(x, x), ReduceMean, Add, Sqrt, Reciprocal, Mul(r, x),
 *   Mul(γ, n); `rmsOneOver` with Div(1, s); `rmsPow` with Pow(v, −½); `rmsCast` as rmsMul between two Casts
 * - `l2` ReduceL2, Clip, Div, Mul(√d), Mul(γ), as `F.normalize` exports
 * - `layerTorch` ReduceMean, Sub, Sub again, Pow, ReduceMean, Add, Sqrt, Div, Mul(γ), Add(β)
 * - `layerMul` with axes as inputs (opset 18), one Sub, Mul(d, d), Reciprocal, operands the other way round
 */
export type NormForm =
  | 'layer'
  | 'simplified'
  | 'rms23'
  | 'skip'
  | 'skipSimplified'
  | 'rmsDiv'
  | 'rmsMul'
  | 'rmsOneOver'
  | 'rmsPow'
  | 'rmsCast'
  | 'l2'
  | 'layerTorch'
  | 'layerMul'

export const MEAN_FORMS: readonly NormForm[] = ['layer', 'skip', 'layerTorch', 'layerMul']
export const PLAIN_FORMS: readonly NormForm[] = [
  'simplified',
  'rms23',
  'skipSimplified',
  'rmsDiv',
  'rmsMul',
  'rmsOneOver',
  'rmsPow',
  'rmsCast',
  'l2',
]

export type FloatType = 'float' | 'double'

type Attributes = Readonly<Record<string, AttributeValue>>
const EPSILON = 1e-5

/** Nodes and weights of a network in the making; a node's one output has the node's name. */
export class Parts {
  readonly nodes: NodeProto[] = []
  readonly tensors: TensorProto[] = []
  readonly #seed: number
  readonly #type: FloatType
  readonly width: number

  constructor(width: number, type: FloatType, seed: number) {
    this.width = width
    this.#type = type
    this.#seed = seed
  }

  get elementType(): number {
    return this.#type === 'float' ? DataType.FLOAT : DataType.DOUBLE
  }

  /** A float constant with the numbers given, or seeded normal ones times `scale`. */
  weight(name: string, dims: readonly number[], { scale = 0.3, around = 0 } = {}): string {
    // A weight's numbers follow from its name: the same in whatever order a form of the network makes them.
    const letters = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 1_000_003, this.#seed)
    const random = makeRandom(letters)
    const count = dims.reduce((a, b) => a * b, 1)
    const values = Array.from({ length: count }, () => around + scale * random.normal())
    return this.floats(name, dims, values)
  }

  floats(name: string, dims: readonly number[], values: readonly number[]): string {
    if (this.tensors.some((tensor) => tensor.name === name)) return name
    const data = this.#type === 'float' ? Float32Array.from(values) : Float64Array.from(values)
    this.tensors.push(
      makeTensor({
        name,
        dims: dims.map(BigInt),
        dataType: this.elementType,
        rawData: new Uint8Array(data.buffer),
      }),
    )
    return name
  }

  integers(values: readonly number[], dims: readonly number[] = [values.length]): string {
    const name = `i64_${dims.length}_${values.join('_')}`
    if (this.tensors.some((tensor) => tensor.name === name)) return name
    const rawData = new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer)
    this.tensors.push(makeTensor({ name, dims: dims.map(BigInt), dataType: DataType.INT64, rawData }))
    return name
  }

  scalar(value: number): string {
    return this.floats(`scalar_${value}`, [], [value])
  }

  add(op: string, inputs: readonly string[], output: string, attributes: Attributes = {}, domain = ''): string {
    this.nodes.push(makeNode(op, inputs, [output], { name: output, attributes, domain }))
    return output
  }

  /** x·W (+ b): `<to>.weight` [inputs, outputs], `<to>.bias`. @returns the output, called `to`. */
  linear(
    from: string,
    to: string,
    [inputs, outputs]: readonly [number, number],
    { form = 'matmul', bias = false }: { readonly form?: LinearForm; readonly bias?: boolean } = {},
  ): string {
    const size = { scale: 1 / Math.sqrt(inputs) }
    if (form === 'gemm') {
      const flat = this.add('Reshape', [from, this.integers([-1, inputs])], `${to}/flat`)
      const given = [flat, this.weight(`${to}.weight`, [outputs, inputs], size)]
      if (bias) given.push(this.weight(`${to}.bias`, [outputs]))
      const product = this.add('Gemm', given, `${to}/gemm`, { transB: 1 })
      // Batch and length come from a tensor that still has them.
      const shape = this.add('Shape', [from], `${to}/shape`)
      const lead = this.add('Slice', [shape, this.integers([0]), this.integers([-1]), this.integers([0])], `${to}/lead`)
      const whole = this.add('Concat', [lead, this.integers([outputs])], `${to}/whole`, { axis: 0 })
      return this.add('Reshape', [product, whole], to)
    }
    const weight = this.weight(`${to}.weight`, [inputs, outputs], size)
    if (!bias) return this.add('MatMul', [from, weight], to)
    const product = this.add('MatMul', [from, weight], `${to}/product`)
    return this.add('Add', [this.weight(`${to}.bias`, [outputs]), product], to)
  }

  gain(to: string): string {
    return this.weight(`${to}.gain`, [this.width], { scale: 0.3, around: 1 })
  }

  beta(to: string): string {
    return this.weight(`${to}.beta`, [this.width], { scale: 0.2 })
  }

  /** A norm of `x` over the last axis; forms with a mean have a β as well. @returns its output, called `to`. */
  norm(form: NormForm, x: string, to: string): string {
    const epsilon = { epsilon: { float: EPSILON } }
    switch (form) {
      case 'layer':
      case 'skip':
        return this.add('LayerNormalization', [x, this.gain(to), this.beta(to)], to, { axis: -1, ...epsilon })
      case 'simplified':
      case 'skipSimplified':
        return this.add('SimplifiedLayerNormalization', [x, this.gain(to)], to, { axis: -1, ...epsilon })
      case 'rms23':
        return this.add('RMSNormalization', [x, this.gain(to)], to, { axis: -1, ...epsilon })
      case 'l2': {
        const length = this.add('ReduceL2', [x], `${to}/l2`, { axes: [-1], keepdims: 1 })
        const clipped = this.add('Clip', [length, this.scalar(1e-12)], `${to}/clip`)
        const expanded = this.add('Expand', [clipped, this.add('Shape', [x], `${to}/shape`)], `${to}/expand`)
        const unit = this.add('Div', [x, expanded], `${to}/unit`)
        const scaled = this.add('Mul', [unit, this.scalar(Math.sqrt(this.width))], `${to}/scaled`)
        return this.add('Mul', [scaled, this.gain(to)], to)
      }
      case 'rmsCast': {
        const other = this.#type === 'float' ? DataType.DOUBLE : DataType.FLOAT
        const wide = this.add('Cast', [x], `${to}/wide`, { to: other })
        const squares = this.add('Mul', [wide, wide], `${to}/squares`)
        const mean = this.add('ReduceMean', [squares], `${to}/mean`, { axes: [-1] })
        const own = this.add('Cast', [mean], `${to}/meanCast`, { to: this.elementType })
        const root = this.add('Sqrt', [this.add('Add', [own, this.scalar(EPSILON)], `${to}/eps`)], `${to}/sqrt`)
        const inverse = this.add('Cast', [this.add('Reciprocal', [root], `${to}/inverse`)], `${to}/inverseCast`, {
          to: other,
        })
        const unit = this.add('Mul', [wide, inverse], `${to}/unit`)
        const back = this.add('Cast', [unit], `${to}/back`, { to: this.elementType })
        return this.add('Mul', [this.gain(to), back], to)
      }
      case 'layerTorch': {
        const mean = this.add('ReduceMean', [x], `${to}/mean`, { axes: [-1], keepdims: 1 })
        const centred = this.add('Sub', [x, mean], `${to}/centred`)
        const again = this.add('Sub', [x, mean], `${to}/again`)
        const unit = this.#overRoot('rmsDiv', centred, again, to)
        return this.add('Add', [this.add('Mul', [unit, this.gain(to)], `${to}/scaled`), this.beta(to)], to)
      }
      case 'layerMul': {
        const mean = this.add('ReduceMean', [x, this.integers([-1])], `${to}/mean`, { keepdims: 1 })
        const centred = this.add('Sub', [x, mean], `${to}/centred`)
        const unit = this.#overRoot('layerMul', centred, centred, to)
        return this.add('Add', [this.beta(to), this.add('Mul', [this.gain(to), unit], `${to}/scaled`)], to)
      }
      default: {
        const unit = this.#overRoot(form, x, x, to)
        return this.add('Mul', form === 'rmsDiv' ? [unit, this.gain(to)] : [this.gain(to), unit], to)
      }
    }
  }

  /** `x` divided by the root of the mean square of `y`. */
  #overRoot(form: NormForm, x: string, y: string, to: string): string {
    const squares =
      form === 'rmsMul' || form === 'layerMul'
        ? this.add('Mul', [y, y], `${to}/squares`)
        : this.add('Pow', [y, this.scalar(2)], `${to}/squares`)
    const mean =
      form === 'layerMul'
        ? this.add('ReduceMean', [squares, this.integers([-1])], `${to}/variance`)
        : this.add('ReduceMean', [squares], `${to}/variance`, { axes: [-1] })
    const safe = this.add('Add', [mean, this.scalar(EPSILON)], `${to}/eps`)
    if (form === 'rmsPow') {
      return this.add('Mul', [x, this.add('Pow', [safe, this.scalar(-0.5)], `${to}/inverse`)], `${to}/unit`)
    }
    const root = this.add('Sqrt', [safe], `${to}/sqrt`)
    if (form === 'rmsDiv') return this.add('Div', [x, root], `${to}/unit`)
    const inverse =
      form === 'rmsOneOver'
        ? this.add('Div', [this.scalar(1), root], `${to}/inverse`)
        : this.add('Reciprocal', [root], `${to}/inverse`)
    return this.add('Mul', [inverse, x], `${to}/unit`)
  }

  /** @param opset 17 unless a form asks for more. */
  model(input: readonly ValueInfoProto[], output: readonly ValueInfoProto[], form: NormForm): ModelProto {
    const opset = form === 'rms23' ? 23 : form === 'layerMul' ? 18 : 17
    const graph = { name: 'g', node: this.nodes, initializer: this.tensors, input: [...input], output: [...output] }
    return makeModel({ irVersion: 10n, opsetImport: [makeOpset('', opset), makeOpset('com.microsoft', 1)], graph })
  }
}

/** `gemm` flattens to two axes, multiplies with [out, in] and gives the shape back. */
export type LinearForm = 'matmul' | 'gemm'
