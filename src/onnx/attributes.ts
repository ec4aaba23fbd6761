/** @file Reading and writing a node's attributes. */
import { AttributeType, type AttributeValue, makeAttribute, type NodeProto } from './proto.ts'

/** Integer attribute, or `fallback` when the node does not carry it. */
export function intAttribute(node: NodeProto, name: string, fallback: number): number {
  const attribute = node.attribute.find((a) => a.name === name)
  return attribute ? Number(attribute.i) : fallback
}

/** Float attribute, or `fallback` when the node does not carry it. */
export function floatAttribute(node: NodeProto, name: string, fallback: number): number {
  const attribute = node.attribute.find((a) => a.name === name)
  return attribute ? attribute.f : fallback
}

/** Integer list attribute, or undefined. */
export function intsAttribute(node: NodeProto, name: string): number[] | undefined {
  const attribute = node.attribute.find((a) => a.name === name)
  return attribute ? attribute.ints.map(Number) : undefined
}

/** True when the node has an attribute of this name that is not a reference to a function's attribute. */
export function hasAttribute(node: NodeProto, name: string): boolean {
  return node.attribute.some((a) => a.name === name)
}

/** True when any attribute takes its value from the enclosing function (`ref_attr_name`), so it is not known here. */
export function hasReferencedAttribute(node: NodeProto): boolean {
  return node.attribute.some((a) => a.refAttrName !== '')
}

/** Set or replace one attribute, in place. */
export function setAttributeInPlace(node: NodeProto, name: string, value: AttributeValue): void {
  const made = makeAttribute(name, value)
  const index = node.attribute.findIndex((a) => a.name === name)
  if (index < 0) node.attribute.push(made)
  else node.attribute[index] = made
}

/** Subgraphs that a node carries (branches of If, bodies of Loop and Scan), with the attribute's name. */
export function subgraphs(node: NodeProto) {
  return node.attribute.flatMap((a) => {
    if (a.type === AttributeType.GRAPH || (a.g && a.graphs.length === 0))
      return a.g ? [{ name: a.name, graph: a.g }] : []
    return a.graphs.map((graph, i) => ({ name: `${a.name}[${i}]`, graph }))
  })
}
