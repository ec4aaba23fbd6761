/** @file The samples that candidates are judged on. */
import type { Walk } from './walk.ts'

/** Batches that losses are measured on: the held-out ones, or all where none are. */
export function judgingBatches({ batches, fitBatches }: Pick<Walk, 'batches' | 'fitBatches'>): number[] {
  const first = fitBatches < batches.length ? fitBatches : 0
  return Array.from({ length: batches.length - first }, (_, i) => first + i)
}
