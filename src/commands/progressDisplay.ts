/** @file The moving line on stderr: stage, counts, time left, what is being worked on, and how it goes. */
import type { Ora } from 'ora'
import type { ProgressEvent } from '../progress.ts'
import { isLively, printable } from './terminal.ts'
import { shortenMiddle } from './textTable.ts'

const STAGES: Readonly<Record<ProgressEvent['stage'], string>> = {
  read: 'reading',
  plan: 'planning',
  calibrate: 'calibrating',
  quantize: 'quantizing',
  write: 'writing',
  verify: 'verifying',
  evaluate: 'evaluating',
  analyze: 'analyzing',
  measure: 'measuring',
  allocate: 'allocating',
}
/** Before this share of a stage or this many milliseconds, an estimate of the time left is noise. */
const LEAST_SHARE = 0.02
const LEAST_TIME = 1000

export interface ProgressDisplay {
  show(event: ProgressEvent): void
  /** Say that the run is stopping. */
  stopping(): void
  /** Clear the line and give the cursor back. */
  end(): void
}

/** The line's text for an event, given the milliseconds since its stage began. */
export function describeProgress(event: ProgressEvent, elapsed: number): string {
  const { stage, done, total, item, detail } = event
  const parts = [`${STAGES[stage]} ${done}/${total}`]
  if (elapsed >= LEAST_TIME && done > 0 && done < total && done / total >= LEAST_SHARE) {
    parts.push(`${describeSeconds((elapsed * (total - done)) / done / 1000)} left`)
  }
  if (item !== undefined) parts.push(shortenMiddle(printable(item), 48))
  if (detail !== undefined) parts.push(shortenMiddle(printable(detail), 40))
  return parts.join('  ')
}

function describeSeconds(seconds: number): string {
  const whole = Math.ceil(seconds)
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  return minutes < 60
    ? `${minutes} min ${whole % 60} s`
    : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
}

/** A spinner on stderr, or nothing where nobody watches: no terminal, NO_COLOR, CI, or `quiet`. */
export async function startProgressDisplay(quiet: boolean): Promise<ProgressDisplay> {
  if (quiet || !isLively(process.stderr)) return { show() {}, stopping() {}, end() {} }
  const { default: ora } = await import('ora')
  // Raw mode on stdin would take Ctrl-C away from us.
  const spinner: Ora = ora({ stream: process.stderr, discardStdin: false, text: 'starting' }).start()
  let stage: ProgressEvent['stage'] | undefined
  let stageStart = 0
  let isStopping = false
  return {
    show(event) {
      if (event.stage !== stage) {
        stage = event.stage
        stageStart = performance.now()
      }
      if (!isStopping) spinner.text = describeProgress(event, performance.now() - stageStart)
    },
    stopping() {
      isStopping = true
      spinner.text = 'stopping (Ctrl-C again to stop at once)'
    },
    end() {
      spinner.stop()
    },
  }
}
