import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // For machines that have less than a processor for each worker.
    testTimeout: 30_000,
  },
});
