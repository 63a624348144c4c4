// Prisma's own: what it does with its connections, and with errors of the database.
import { expect } from 'vitest';
import type { Db } from '../src/db';
import { inStock, placeOrder } from '../src/shop';
import { call, open, test } from '../testing/test';

const nameOf = async (db: Db) => (await db.$queryRaw<[{ name: string }]>`SELECT current_database()::text AS name`)[0].name;

test('two clients see what the other has committed', async ({ db }) => {
  const other = open(await nameOf(db));
  await placeOrder(other, 2, [[3, 5]]);
  await expect(placeOrder(db, 1, [[3, 1]])).rejects.toThrow('product 3 is out of stock');
  await other.$disconnect();
});

test('its connections stay when the database is rewound', async ({ sameDb }) => {
  const name = await nameOf(sameDb);
  const pids = async () => (await call(
    '(SELECT array_agg(pid ORDER BY pid) AS pids FROM pg_stat_activity WHERE datname = $1) AS sessions', name)).pids;
  await Promise.all([1, 2, 3].map((product) => placeOrder(sameDb, 1, [[product, 5]])));
  const before = await pids();
  expect(before.length).toBeGreaterThanOrEqual(3);
  await call('testdb_rewind($1)', name);
  expect(await Promise.all([1, 2, 3].map((product) => inStock(sameDb, product)))).toEqual([5, 5, 5]);
  expect(await pids()).toEqual(before);
});

test('a duplicate is an error of Prisma', async ({ sameDb }) => {
  await expect(sameDb.customer.create({ data: { email: 'ada@example.com' } })).rejects.toMatchObject({ code: 'P2002' });
  // The next number: the sequence has been counted on.
  expect((await sameDb.customer.create({ data: { email: 'eve@example.com' } })).id).toBe(4);
});
