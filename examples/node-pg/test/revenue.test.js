// One database for this file, rewound before each test.
import assert from 'node:assert/strict';
import test from 'node:test';
import { orderCount, pay, placeOrder, revenue } from '../src/shop.js';
import { workerDatabase } from '../testing/database.js';

const db = await workerDatabase();

for (const [product, price] of [[1, 30], [2, 25.5], [3, 12]]) {
  for (const amount of [1, 2, 3, 4, 5]) {
    test(`revenue from ${amount} of product ${product}`, async () => {
      assert.equal(await revenue(db), 0);
      await pay(db, await placeOrder(db, 1, [[product, amount]]));
      assert.equal(await revenue(db), price * amount);
    });
  }
}

test('no orders at first', async () => {
  assert.equal(await orderCount(db, 1), 0);
});

test('a table may go', async () => {
  await db.query('DROP TABLE shipment');
});

test('the table is back', async () => {
  assert.equal((await db.query('SELECT FROM shipment')).rowCount, 0);
});
