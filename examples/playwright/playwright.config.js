import { defineConfig } from '@playwright/test';

export default defineConfig({
  testDir: 'tests',
  workers: 4,
  fullyParallel: true,
  reporter: 'list',
  // For machines that have less than a processor for each worker.
  timeout: 60_000,
  expect: { timeout: 20_000 },
  use: {
    launchOptions: {
      // Playwright's own browser, of `npx playwright install chromium`, or another one, such as Debian's: /usr/bin/chromium
      executablePath: process.env.CHROMIUM,
      args: ['--disable-quic', '--disable-gpu'],
    },
  },
});
