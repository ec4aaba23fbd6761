/**
 * @file A copy of a model in the making: nodes and constants of the source found again in it, others added. The index
 * is of the copy as it was at the start; what is added is not in it.
 */

import { intAttribute } from '../onnx/attributes.ts'
import { cloneModel } from '../onnx/clone.ts'
import { type Constant, indexModel, type ModelIndex, makeFreshNames, nodesOf, type Scope } from '../onnx/graph.ts'
import type { OnnxModel } from '../onnx/model.ts'
import { DataType, makeNode, makeTensor, makeValueInfo, type NodeProto, type TensorProto } from '../onnx/proto.ts'
import { writeVectors } from './constantVectors.ts'

/** Operators between a stored weight and the one that uses it. */
const STEPS = new Set([
  ...['Transpose', 'Cast', 'Identity', 'Reshape', 'Squeeze', 'Unsqueeze', 'Flatten'],
  ...['Slice', 'Expand', 'Tile', 'Concat'],
])

export class ModelDraft {
  readonly model: OnnxModel
  readonly index: ModelIndex
  readonly scope: Scope
  readonly freshName: (wanted: string) => string
  readonly #made: ReadonlyMap<string, NodeProto>
  readonly #shared = new Map<string, string>()

  constructor(source: OnnxModel) {
    this.model = cloneModel(source)
    this.index = indexModel(this.model.proto)
    this.scope = this.index.scopes[0]!
    this.freshName = makeFreshNames(this.model.proto)
    this.#made = new Map(this.scope.producers)
  }

  /** The copy of a node of the source. @throws RangeError when the main graph has none of its outputs. */
  nodeOf(node: NodeProto): NodeProto {
    const name = node.output.find((output) => output !== '')
    const own = name === undefined ? undefined : this.#made.get(name)
    if (!own) throw new RangeError(`the main graph has no node that makes '${name ?? ''}'`)
    return own
  }

  /** The copy of a constant of the source. @throws RangeError when it is not in the main graph. */
  constantOf({ name }: Pick<Constant, 'name'>): Constant {
    const own = this.scope.constants.get(name)
    if (!own) throw new RangeError(`the main graph has no constant '${name}'`)
    return own
  }

  /**
   * The nodes between a constant and the input of a node that reads it, the one next to the constant first.
   * @throws RangeError when the input does not come from the constant.
   */
  pathTo(node: NodeProto, inputIndex: number, constant: string): NodeProto[] {
    const path = this.#pathFrom(node.input[inputIndex] ?? '', constant)
    if (path) return path
    throw new RangeError(`input ${inputIndex} of node '${node.name || node.output[0]}' is not made of '${constant}'`)
  }

  #pathFrom(name: string, constant: string): NodeProto[] | undefined {
    if (name === constant) return []
    const step = this.scope.producers.get(name)
    if (!step || !STEPS.has(step.opType)) return undefined
    // All of these but Concat take the tensor as their first input.
    for (const input of step.opType === 'Concat' ? step.input : step.input.slice(0, 1)) {
      const path = this.#pathFrom(input, constant)
      if (path) return [...path, step]
    }
    return undefined
  }

  /** Element type of a constant where a node reads it. */
  typeAt(path: readonly NodeProto[], constant: Constant): number {
    const cast = path.findLast(({ opType }) => opType === 'Cast')
    return cast ? intAttribute(cast, 'to', constant.tensor.dataType) : constant.tensor.dataType
  }

  /** Add a float constant; returns it under a name that is not taken. */
  addConstant(wanted: string, dataType: number, dims: readonly number[], values: Float64Array): Constant {
    const constant = this.addTensor(wanted, dataType, dims)
    if (dims.length > 0) writeVectors(this.model, constant.tensor, dims.length - 1, values)
    else {
      const vector = makeTensor({ dataType, dims: [1n] })
      writeVectors(this.model, vector, 0, values)
      constant.tensor.rawData = vector.rawData
    }
    return constant
  }

  /** Add a constant without contents. */
  addTensor(wanted: string, dataType: number, dims: readonly number[]): Constant {
    const name = this.freshName(wanted)
    const tensor = makeTensor({ name, dataType, dims: dims.map(BigInt) })
    this.#add(tensor)
    return { name, tensor, scope: this.scope, node: undefined }
  }

  #add(tensor: TensorProto): void {
    const { proto } = this.model
    proto.graph!.initializer.push(tensor)
    // Before version 4 initializers had to be inputs as well.
    if (proto.irVersion < 4n) {
      proto.graph!.input.push(makeValueInfo(tensor.name, tensor.dataType, tensor.dims.map(Number)))
    }
  }

  /** Name of a constant with the same number everywhere, one for all that ask for this type and shape. */
  filled(value: 0 | 1, dataType: number, dims: readonly number[]): string {
    const key = `${value ? 'ones' : 'zeros'}_${dims.join('x')}_${DataType[dataType]!.toLowerCase()}`
    const known = this.#shared.get(key)
    if (known !== undefined) return known
    const count = dims.reduce((a, b) => a * b, 1)
    const { name } = this.addConstant(key, dataType, dims, new Float64Array(count).fill(value))
    this.#shared.set(key, name)
    return name
  }

  /** A constant that lies in a Constant node becomes an initializer of the same name, so that it can be changed. */
  makeInitializer(constant: Constant): Constant {
    if (!constant.node) return constant
    const { name, tensor: old } = constant
    const tensor = makeTensor({ name, dataType: old.dataType, dims: old.dims })
    const nodes = nodesOf(this.scope)
    nodes.splice(nodes.indexOf(constant.node), 1)
    this.#add(tensor)
    return { name, tensor, scope: this.scope, node: undefined }
  }

  insertBefore(node: NodeProto, added: readonly NodeProto[]): void {
    const nodes = nodesOf(this.scope)
    nodes.splice(nodes.indexOf(node), 0, ...added)
  }

  /** Add `vector` to the output of a node. The node keeps the name of its output but for outputs of the model. */
  addAfter(node: NodeProto, vector: string, label: string): NodeProto {
    const output = node.output[0]!
    const isOutput = this.index.scopes.some(({ outputs }) => outputs.has(output))
    const fresh = this.freshName(`${output}/${label}`)
    const add = isOutput ? makeNode('Add', [fresh, vector], [output]) : makeNode('Add', [output, vector], [fresh])
    add.name = this.freshName(`${node.name || output}/${label}`)
    if (isOutput) node.output[0] = fresh
    else {
      for (const reader of this.scope.readers.get(output) ?? []) {
        reader.node.input = reader.node.input.map((name) => (name === output ? fresh : name))
      }
    }
    const nodes = nodesOf(this.scope)
    nodes.splice(nodes.indexOf(node) + 1, 0, add)
    return add
  }

  /** Remove constants that nothing reads any more, and the nodes between them and what read them. */
  dropUnread(names: Iterable<string>): void {
    const pending = new Set(names)
    for (let changed = true; changed; ) {
      changed = false
      const [main, ...others] = indexModel(this.model.proto).scopes
      const graph = main!.graph!
      for (const name of pending) {
        const isOutput = [main!, ...others].some(({ outputs }) => outputs.has(name))
        if (isOutput || (main!.readers.get(name)?.length ?? 0) > 0) continue
        pending.delete(name)
        changed = true
        for (const tensor of graph.initializer) if (tensor.name === name) this.model.payloads.delete(tensor)
        graph.initializer = graph.initializer.filter((tensor) => tensor.name !== name)
        graph.input = graph.input.filter((input) => input.name !== name)
        graph.node = graph.node.filter(({ output }) => output.length !== 1 || output[0] !== name)
      }
    }
  }
}
