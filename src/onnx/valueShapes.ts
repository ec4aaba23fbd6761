/** @file Declared shapes of values. */
import type { Scope } from './graph.ts'

/** The shape that the scope, or one around it, declares for a value; undefined where it has none. */
export function declaredShape(scope: Scope, name: string): readonly (number | string | undefined)[] | undefined {
  const { graph } = scope
  const value = graph && [graph.valueInfo, graph.output, graph.input].flat().find((info) => info.name === name)
  const type = value?.type?.value
  if (type?.case === 'tensorType' && type.value.shape) {
    return type.value.shape.dim.map(({ value: dim }) => {
      if (dim.case === 'dimValue') return Number(dim.value)
      return dim.case === 'dimParam' ? dim.value : undefined
    })
  }
  return scope.parent ? declaredShape(scope.parent, name) : undefined
}
