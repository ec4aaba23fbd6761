import { defineConfig } from 'vitest/config'

export default defineConfig({
  // Files share their worker's modules: importing them anew for each took a third of the time. What a test changes it restores.
  test: { include: ['test/**/*.test.ts'], testTimeout: 30_000, pool: 'forks', maxWorkers: 2, isolate: false },
})
