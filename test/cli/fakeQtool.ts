/** @file The command line as users have it, except that its operations are done by fakeWorker.ts. */
import { main } from '../../src/commands/cli.ts'

process.exitCode = await main(process.argv.slice(2), new URL('./fakeWorkerEntry.mjs', import.meta.url))
