// One database for each worker, rewound before each test.
import { sql } from 'slonik';
import { expect } from 'vitest';
import { orderCount, pay, placeOrder, revenue } from '../src/shop';
import { test } from './test';

for (const [product, price] of [[1, 30], [2, 25.5], [3, 12]]) {
  for (const amount of [1, 2, 3, 4, 5]) {
    test(`revenue from ${amount} of product ${product}`, async ({ sameDb }) => {
      expect(await revenue(sameDb)).toBe(0);
      await pay(sameDb, await placeOrder(sameDb, 1, [[product, amount]]));
      expect(await revenue(sameDb)).toBe(price * amount);
    });
  }
}

test('no orders at first', async ({ sameDb }) => {
  expect(await orderCount(sameDb, 1)).toBe(0);
});

test('a table may go', async ({ sameDb }) => {
  await sameDb.query(sql.unsafe`DROP TABLE shipment`);
});

test('the table is back', async ({ sameDb }) => {
  expect((await sameDb.query(sql.unsafe`SELECT FROM shipment`)).rowCount).toBe(0);
});
