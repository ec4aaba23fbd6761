/** @file What the float network makes of the judging samples: what candidates are compared with. */
import { judgingBatches } from '../calibration/judgingBatches.ts'
import type { Walk } from '../calibration/walk.ts'
import type { Dataset } from '../data/dataset.ts'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { LabelLoss } from '../eval/labelLoss.ts'
import { OutputLoss } from '../eval/outputLoss.ts'
import { checkAborted, nextTurn, type RunOptions } from '../progress.ts'

export interface References {
  readonly loss: OutputLoss
  /** Undefined where the samples have no labels. */
  readonly labels: LabelLoss | undefined
}

/**
 * Outputs of the float network on the judging batches, and with labels of the held-out samples what it makes of them.
 * @throws QtoolError `data` where there are labels but nothing is held out, or no output has class scores for them.
 */
export async function openReferences(
  walk: Walk,
  { labels: classes, order }: Pick<Dataset, 'labels' | 'order'>,
  run: RunOptions,
): Promise<References> {
  const loss = new OutputLoss('auto')
  if (!classes) {
    await eachOutput(walk, run, (batch, name, tensor) => loss.addReference(batch, name, tensor, walk.batches[batch]!))
    return { loss, labels: undefined }
  }
  checkHeldOut(walk)
  const classOf = new Map(Array.from(classes, (label, i) => [order[i]!, label]))
  const labels = new LabelLoss(classes.reduce((a, b) => Math.max(a, b), 0))
  await eachOutput(walk, run, (batch, name, tensor) => {
    const facts = walk.batches[batch]!
    loss.addReference(batch, name, tensor, facts)
    const own = Int32Array.from(facts.numbers, (number) => classOf.get(number)!)
    labels.addReference(batch, name, tensor, own, facts.numbers)
  })
  if (labels.output === undefined) {
    throw new QtoolError('data', `labels are given, but no output of ${walk.path} has class scores for them`, {
      hint: 'labels go with classifiers: an output with one row of scores per sample, and more classes than the largest label',
    })
  }
  if (labels.samples === 0) throw new QtoolError('data', 'no held-out sample has a label: all are below 0')
  return { loss, labels }
}

/** What fits have seen says nothing of accuracy. */
function checkHeldOut({ batches, fitBatches }: Walk): void {
  if (fitBatches < batches.length) return
  throw new QtoolError('data', 'labels are given, but no sample is held out', {
    hint: 'accuracy counts on samples that no fit sees: give more samples, or a larger --holdout',
  })
}

/** The same outputs, all by their relative error. */
export async function referenceErrors(walk: Walk, run: RunOptions): Promise<OutputLoss> {
  const loss = new OutputLoss([])
  await eachOutput(walk, run, (batch, name, tensor) => loss.addReference(batch, name, tensor, walk.batches[batch]!))
  return loss
}

async function eachOutput(
  walk: Walk,
  run: RunOptions,
  visit: (batch: number, name: string, tensor: FeedTensor) => void,
): Promise<void> {
  const trial = await walk.openTrial(walk.graph.nodes.length)
  try {
    for (const batch of judgingBatches(walk)) {
      await nextTurn()
      checkAborted(run.signal)
      for (const [name, tensor] of await trial.run('float', batch)) visit(batch, name, tensor)
    }
  } finally {
    await trial.close()
  }
}
