/** @file What onnxruntime's profiler says was executed in one run of a model. */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { FeedTensor } from '../data/modelInput.ts'
import { QtoolError } from '../errors.ts'
import { openSession } from '../runtime/session.ts'

/** A node of the optimized graph that ran. */
export interface ExecutedNode {
  /**
   * Its name after optimization. A fused node mostly carries the name of the node it replaces, with additions. A node
   * without a name is called `<operator>_<index>`, its index among the nodes of its graph that are not Constant.
   */
  readonly name: string
  readonly operator: string
}

/**
 * Run a model once under the profiler. The profile is written to a temporary directory and removed in any case.
 * @throws QtoolError as opening and running a session do
 */
export async function profileRun(
  modelPath: string,
  feeds: ReadonlyMap<string, FeedTensor>,
  threads: number,
): Promise<ExecutedNode[]> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'qtool-profile-'))
  try {
    const session = await openSession(modelPath, { threads, profilePrefix: path.join(directory, 'run') })
    try {
      await session.run(feeds)
    } finally {
      session.endProfiling()
      await session.dispose()
    }
    const file = fs.readdirSync(directory).find((name) => name.endsWith('.json'))
    if (!file) throw new QtoolError('model', `${modelPath}: onnxruntime wrote no profile`)
    return parseProfile(fs.readFileSync(path.join(directory, file), 'utf8'))
  } finally {
    fs.rmSync(directory, { recursive: true, force: true })
  }
}

/**
 * Nodes in a profile, in order of execution; a node in a loop appears once for each turn.
 *
 * The file looks like JSON, but onnxruntime does not escape quotes and backslashes in names, so it is read by its
 * fixed layout: one event after another, each beginning with its category.
 */
export function parseProfile(text: string): ExecutedNode[] {
  const executed: ExecutedNode[] = []
  for (const event of text.split(/^\{"cat" : /m)) {
    const found = /^"Node",[\s\S]*?"name" :"([\s\S]*)_kernel_time","args" : \{[\s\S]*?"op_name" : "([^"]*)"/.exec(event)
    if (found) executed.push({ name: found[1]!, operator: found[2]! })
  }
  return executed
}
