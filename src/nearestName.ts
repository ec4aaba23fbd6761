/** @file The known name that a mistyped one most likely meant. Imports nothing. */

/**
 * @returns the name with the least edit distance to `typed`, when that is at most a third of its length (at least 1
 * and at most 4 edits); the first of equals; undefined when none is near. Case does not count.
 */
export function nearestName(typed: string, names: readonly string[]): string | undefined {
  let best: string | undefined
  let bestDistance = Number.POSITIVE_INFINITY
  for (const name of names) {
    const distance = editDistance(typed.toLowerCase(), name.toLowerCase())
    const allowed = Math.min(4, Math.max(1, Math.floor(name.length / 3)))
    if (distance <= allowed && distance < bestDistance) {
      best = name
      bestDistance = distance
    }
  }
  return best
}

/** Least number of insertions, deletions, substitutions and swaps of neighbours (optimal string alignment), O(a·b). */
function editDistance(a: string, b: string): number {
  let beforePrevious: number[] = []
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const substituted = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      let least = Math.min(substituted, previous[j]! + 1, row[j - 1]! + 1)
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      if (swapped) least = Math.min(least, beforePrevious[j - 2]! + 1)
      row.push(least)
    }
    beforePrevious = previous
    previous = row
  }
  return previous[b.length]!
}
