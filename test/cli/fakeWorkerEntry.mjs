/** @file Starts fakeWorker.ts in a worker thread, where `node --import tsx` does not reach. */
import { register } from 'tsx/esm/api'

register()
await import('./fakeWorker.ts')
