/**
 * @file LIM, layer input modification: how much a block changes its hidden state. One forward run of the float network.
 *
 * Source: Dumitru et al., 2024 (layer-wise quantization). Variants flatten all tokens into one vector; there a few tokens
 * with huge activations decide. Here it is the mean of the tokens' cosines.
 */

/** Adds up the cosines between the states before and after a block, token by token. */
export class LayerInputModification {
  #sum = 0
  #weight = 0

  /**
   * Tokens without a direction, before or after, do not count.
   * @param input   hidden states before the block, [tokens, width]
   * @param output  after it, of the same shape
   * @param width   of a hidden state
   * @param weights one per token, ≥ 0: 0 for padding. All 1 when left out.
   * @throws RangeError when shapes differ: LIM is defined only where a block's input and output have the same width.
   */
  add(input: ArrayLike<number>, output: ArrayLike<number>, width: number, weights?: ArrayLike<number>): void {
    const tokens = input.length / width
    if (input.length !== output.length || !Number.isInteger(tokens) || (weights && weights.length !== tokens)) {
      throw new RangeError(
        `LIM: ${input.length} and ${output.length} numbers of width ${width}, ${weights?.length ?? 'no'} weights`,
      )
    }
    for (let token = 0; token < tokens; token++) {
      const weight = weights ? weights[token]! : 1
      if (weight === 0) continue
      let product = 0
      let before = 0
      let after = 0
      for (let k = token * width; k < (token + 1) * width; k++) {
        product += input[k]! * output[k]!
        before += input[k]! * input[k]!
        after += output[k]! * output[k]!
      }
      if (before === 0 || after === 0) continue
      // One root of the product: exactly 1 for equal states.
      this.#sum += weight * Math.max(-1, Math.min(1, product / Math.sqrt(before * after)))
      this.#weight += weight
    }
  }

  /**
   * LIM = −mean cosine, in [−1, 1]: −1 when the block only scales its input (it matters least), 1 when it turns it
   * round. Undefined when no token counted; NaN when a state was.
   */
  get value(): number | undefined {
    return this.#weight > 0 ? -this.#sum / this.#weight : undefined
  }
}
