// The application runs on, whatever happens to its database.
import { expect } from '@playwright/test';
import { call, open, test } from '../testing/test.js';

test.describe.configure({ mode: 'serial' });

// The application's process, and those of its pool's sessions on the server.
let before;
const processes = async (app) => ({
  app: app.child.pid,
  pool: (await call(`(SELECT array_agg(pid ORDER BY pid) AS pids FROM pg_stat_activity
    WHERE datname = $1 AND application_name = 'shop') AS sessions`, app.name)).pids,
});

test.beforeEach(async ({ page, app }) => {
  before ??= await processes(app);
  await page.goto('/');
  // Nothing of what the test before has done to it.
  await expect(page.getByText('kettle: 30.00, 5 in stock')).toBeVisible();
  await page.getByRole('button', { name: 'Order' }).first().click();
  await expect(page.getByText('Order 1 of ada')).toBeVisible();
});

for (const statement of [
  'DROP TABLE shipment', 'ALTER TABLE product RENAME price TO cost', 'TRUNCATE customer CASCADE', 'DROP SCHEMA public CASCADE',
]) {
  test(statement, async ({ app }) => {
    const db = open(app.name);
    await db.query(statement);
    await db.end();
  });
}

test('the same processes as before', async ({ page, app }) => {
  expect(before.pool).toHaveLength(4);
  expect(await processes(app)).toEqual(before);
  // Two for each test in this file, at least: the application would count from 1 if it had been started anew.
  expect(Number((await page.getByText('Visit').textContent()).slice(6))).toBeGreaterThanOrEqual(10);
});
