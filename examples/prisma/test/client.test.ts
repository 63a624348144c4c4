// Prisma's own: what it does with its connections, and with errors of the database.
import { expect } from 'vitest';
import { connect } from '../src/db';
import { inStock, placeOrder } from '../src/shop';
import { urlOf } from '../testing/server';
import { test } from '../testing/test';

const names = (db: ReturnType<typeof connect>) => db.$queryRaw<[{ name: string }]>`SELECT current_database() AS name`;

test('two clients see what the other has committed', async ({ db }) => {
  const other = connect(urlOf((await names(db))[0].name));
  await placeOrder(other, 2, [[3, 5]]);
  await expect(placeOrder(db, 1, [[3, 1]])).rejects.toThrow('product 3 is out of stock');
  await other.$disconnect();
});

test('its connections stay when the database is rewound', async ({ admin, worker, sameDb }) => {
  const pids = async () => (await admin.query(
    'SELECT pid FROM pg_stat_activity WHERE datname = $1 ORDER BY pid', [worker.name])).rows.map(({ pid }) => pid);
  await Promise.all([1, 2, 3].map((product) => placeOrder(sameDb, 1, [[product, 5]])));
  const before = await pids();
  expect(before.length).toBeGreaterThanOrEqual(3);
  await admin.query('SELECT testdb_rewind($1)', [worker.name]);
  expect(await Promise.all([1, 2, 3].map((product) => inStock(sameDb, product)))).toEqual([5, 5, 5]);
  expect(await pids()).toEqual(before);
});

test('a duplicate is an error of Prisma', async ({ sameDb }) => {
  await expect(sameDb.customer.create({ data: { email: 'ada@example.com' } })).rejects.toMatchObject({ code: 'P2002' });
  // The next number: the sequence has been counted on.
  expect((await sameDb.customer.create({ data: { email: 'eve@example.com' } })).id).toBe(4);
});
