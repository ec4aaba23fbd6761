/** @file Run another program and measure it from outside: wall time, peak resident memory, output, time limit. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Measured {
  /** Exit status; undefined when it was killed at the time limit. */
  readonly status: number | undefined
  readonly seconds: number
  /** Largest resident set, in bytes; undefined where the system does not tell. */
  readonly peakBytes: number | undefined
  readonly stdout: string
  readonly stderr: string
}

const GNU_TIME = '/usr/bin/time'
const POLL_MILLISECONDS = 5

/** How {@link runMeasured} gets at the peak memory on this machine. */
export function peakMemorySource(): string {
  if (existsSync(GNU_TIME)) return 'GNU time, maximum resident set size'
  return existsSync('/proc/self/status') ? '/proc/PID/status, VmHWM' : 'not available'
}

/** VmHWM is the kernel's own high-water mark, so only growth after the last poll can be missed. */
function readHighWaterMark(pid: number): number | undefined {
  try {
    const match = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return match ? Number(match[1]) * 1024 : undefined
  } catch {
    return undefined
  }
}

/**
 * Run `command` to its end.
 * @param limitSeconds the process group is killed after this long; `status` is then undefined.
 */
export async function runMeasured(command: readonly string[], limitSeconds: number, cwd?: string): Promise<Measured> {
  const scratch = mkdtempSync(join(tmpdir(), 'qtool-bench-'))
  const report = join(scratch, 'time')
  const timed = existsSync(GNU_TIME)
  const argv = timed ? [GNU_TIME, '-q', '-f', '%M', '-o', report, ...command] : [...command]
  const started = process.hrtime.bigint()
  const child = spawn(argv[0]!, argv.slice(1), {
    cwd,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NO_COLOR: '1', CI: '1' },
  })
  let stdout = ''
  let stderr = ''
  let peakBytes: number | undefined
  let killed = false
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const limit = setTimeout(() => {
    killed = true
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
  }, limitSeconds * 1000)
  const poll = setInterval(
    () => {
      if (!timed && child.pid !== undefined) peakBytes = readHighWaterMark(child.pid) ?? peakBytes
    },
    timed ? 1000 : POLL_MILLISECONDS,
  )
  try {
    const status = await new Promise<number | undefined>((resolve, reject) => {
      child.on('error', reject)
      child.on('close', (code) => resolve(killed ? undefined : (code ?? undefined)))
    })
    const seconds = Number(process.hrtime.bigint() - started) / 1e9
    if (timed && existsSync(report)) {
      const kilobytes = Number(readFileSync(report, 'utf8').trim())
      if (kilobytes > 0) peakBytes = kilobytes * 1024
    }
    return { status, seconds, peakBytes, stdout, stderr }
  } finally {
    clearTimeout(limit)
    clearInterval(poll)
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** Median of a non-empty list. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
