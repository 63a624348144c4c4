// The application runs on, whatever happens to its database.
import { expect } from '@playwright/test';
import { connect, test } from '../testing/test.js';

test.describe.configure({ mode: 'serial' });

// The application's process, and those of its pool's sessions on the server.
let before;
const processes = async (admin, app) => {
  const { rows } = await admin.query(
    "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = 'shop' ORDER BY pid", [app.database]);
  return { app: app.pid, pool: rows.map(({ pid }) => pid) };
};

test.beforeEach(async ({ page, app, admin }) => {
  before ??= await processes(admin, app);
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
    const client = await connect(app.database);
    await client.query(statement);
    await client.end();
  });
}

test('the same processes as before', async ({ page, app, admin }) => {
  expect(before.pool).toHaveLength(4);
  expect(await processes(admin, app)).toEqual(before);
  // Two for each test in this file, at least: the application would count from 1 if it had been started anew.
  expect(Number((await page.getByText('Visit').textContent()).slice(6))).toBeGreaterThanOrEqual(10);
});
