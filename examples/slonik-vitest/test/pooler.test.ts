// The pooler by itself, as a test without the fixtures uses it.
import { createPool, sql } from 'slonik';
import { expect, test } from 'vitest';
import { inStock, placeOrder } from '../src/shop';
import { pooler } from './test';

test('two databases know nothing of each other', async () => {
  const databases = await Promise.all([pooler.getTestDatabase(), pooler.getTestDatabase()]);
  const [first, second] = await Promise.all(databases.map((database) => createPool(database.getConnectionUri())));
  await placeOrder(first, 1, [[1, 5]]);
  expect(await inStock(first, 1)).toBe(0);
  expect(await inStock(second, 1)).toBe(5);
  expect(await second.oneFirst(sql.unsafe`SELECT current_database()`)).toBe(databases[1].name());
  await Promise.all([first.end(), second.end()]);
  await Promise.all(databases.map((database) => database.destroy()));
});
