/** @file The standard normal distribution: density, distribution function and quantiles. */

/** Terms of the series and of the continued fraction below; enough for float64 on both sides of {@link SERIES_UP_TO}. */
const TERMS = 200
const SERIES_UP_TO = 3

/** Density at x. */
export function normalDensity(x: number): number {
  return Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)
}

/**
 * Probability of a value of at most x, to about 1e-15: Taylor's series near 0 (Marsaglia 2004), Laplace's continued
 * fraction in the tails.
 */
export function normalDistribution(x: number): number {
  if (x === Number.POSITIVE_INFINITY) return 1
  if (x === Number.NEGATIVE_INFINITY) return 0
  if (Math.abs(x) > SERIES_UP_TO) {
    let fraction = Math.abs(x)
    for (let n = TERMS; n > 0; n--) fraction = Math.abs(x) + n / fraction
    const tail = normalDensity(x) / fraction
    return x > 0 ? 1 - tail : tail
  }
  let sum = x
  let term = x
  for (let n = 1; n < TERMS; n++) {
    term *= (x * x) / (2 * n + 1)
    sum += term
  }
  return 0.5 + sum * normalDensity(x)
}

/**
 * The x at which the distribution function is p, by bisection: it is called a few dozen times.
 * @param p 0 < p < 1.
 */
export function normalQuantile(p: number): number {
  let low = -40
  let high = 40
  for (let step = 0; step < 80; step++) {
    const middle = (low + high) / 2
    if (normalDistribution(middle) < p) low = middle
    else high = middle
  }
  return (low + high) / 2
}
