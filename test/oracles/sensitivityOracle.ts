/** @file Slow, plain formulas for sensitivities: softmax regression with its Fisher matrix, games by all subsets, ranks by counting. */

type Vector = readonly number[]
type Matrix = readonly Vector[]

/** ln of the class probabilities of softmax(W·x). */
function logProbabilities(weights: Matrix, x: Vector): number[] {
  const logits = weights.map((row) => row.reduce((sum, w, k) => sum + w * x[k]!, 0))
  const top = Math.max(...logits)
  const normalizer = top + Math.log(logits.reduce((sum, z) => sum + Math.exp(z - top), 0))
  return logits.map((z) => z - normalizer)
}

/** Mean over samples of KL(softmax(W·x) ‖ softmax(V·x)), from its definition. */
export function softmaxKl(weights: Matrix, changed: Matrix, samples: Matrix): number {
  let total = 0
  for (const x of samples) {
    const p = logProbabilities(weights, x)
    const q = logProbabilities(changed, x)
    p.forEach((value, c) => {
      total += Math.exp(value) * (value - q[c]!)
    })
  }
  return total / samples.length
}

/** Fisher matrix of the weights, row by row: mean of x_i x_j (p_c [c = d] − p_c p_d). */
export function softmaxFisher(weights: Matrix, samples: Matrix): number[][] {
  const classes = weights.length
  const inputs = weights[0]!.length
  const size = classes * inputs
  const fisher = Array.from({ length: size }, () => new Array<number>(size).fill(0))
  for (const x of samples) {
    const p = logProbabilities(weights, x).map(Math.exp)
    for (let a = 0; a < size; a++) {
      for (let b = 0; b < size; b++) {
        const c = Math.floor(a / inputs)
        const d = Math.floor(b / inputs)
        const covariance = (c === d ? p[c]! : 0) - p[c]! * p[d]!
        fisher[a]![b]! += (x[a % inputs]! * x[b % inputs]! * covariance) / samples.length
      }
    }
  }
  return fisher
}

/** Its trace in closed form: mean of ‖x‖² Σ p(1 − p). */
export function softmaxTrace(weights: Matrix, samples: Matrix): number {
  let total = 0
  for (const x of samples) {
    const norm = x.reduce((sum, v) => sum + v * v, 0)
    total += norm * logProbabilities(weights, x).reduce((sum, l) => sum + Math.exp(l) * (1 - Math.exp(l)), 0)
  }
  return total / samples.length
}

/**
 * What a change of the weights does to the outputs, in the metric of KL: per sample and class √(p/samples) times the
 * change of the logit less its mean under p. ½‖u‖² is the KL to second order.
 */
export function softmaxPerturbation(weights: Matrix, changed: Matrix, samples: Matrix): number[] {
  return samples.flatMap((x) => {
    const p = logProbabilities(weights, x)
    const q = logProbabilities(changed, x)
    const moved = q.map((value, c) => value - p[c]!)
    const mean = moved.reduce((sum, m, c) => sum + Math.exp(p[c]!) * m, 0)
    return moved.map((m, c) => Math.sqrt(Math.exp(p[c]!) / samples.length) * (m - mean))
  })
}

/** A loss of any set of layers; layer i is in the set when bit i is. */
export type Game = (set: number) => number

/** Layers in a set. */
export function members(set: number): number[] {
  return Array.from({ length: 31 }, (_, i) => i).filter((i) => set & (1 << i))
}

/** Shapley values by their definition, over all subsets. */
export function shapleyByEnumeration(game: Game, layers: number): number[] {
  const factorial = (n: number): number => (n < 2 ? 1 : n * factorial(n - 1))
  return Array.from({ length: layers }, (_, i) => {
    let value = 0
    for (let set = 0; set < 1 << layers; set++) {
      if (set & (1 << i)) continue
      const size = members(set).length
      const chance = (factorial(size) * factorial(layers - size - 1)) / factorial(layers)
      value += chance * (game(set | (1 << i)) - game(set))
    }
    return value
  })
}

/** c·(1 − Π(1 − a)). */
export function coverageByProduct(c: number, shares: Vector): number {
  return c * (1 - shares.reduce((product, a) => product * (1 - a), 1))
}

/** Spearman's correlation: ranks by counting, then the textbook formula of Pearson's. */
export function spearmanByCounting(left: Vector, right: Vector): number {
  const ranks = (values: Vector) =>
    values.map((v) => values.filter((w) => w < v).length + (values.filter((w) => w === v).length + 1) / 2)
  return pearsonByMoments(ranks(left), ranks(right))
}

/** (n Σxy − Σx Σy) / √((n Σx² − (Σx)²)(n Σy² − (Σy)²)). */
export function pearsonByMoments(x: Vector, y: Vector): number {
  const sum = (values: Vector) => values.reduce((a, b) => a + b, 0)
  const products = (a: Vector, b: Vector) => sum(a.map((v, i) => v * b[i]!))
  const moment = (a: Vector, b: Vector) => a.length * products(a, b) - sum(a) * sum(b)
  return moment(x, y) / Math.sqrt(moment(x, x) * moment(y, y))
}
