import assert from 'node:assert/strict';
import test from 'node:test';
import { inStock, orderCount, pay, placeOrder } from '../src/shop.js';
import { withDatabase } from '../testing/database.js';

for (const amount of [1, 2, 3, 4, 5]) {
  test(`ordering ${amount} of the kettle`, withDatabase(async (db) => {
    // Number 1, each time: the sequences are the template's, too.
    assert.equal(await placeOrder(db, 1, [[1, amount]]), 1);
    assert.equal(await inStock(db, 1), 5 - amount);
    assert.equal(await pay(db, 1), 30 * amount);
  }));
}

test('nothing is taken if something is missing', withDatabase(async (db) => {
  await assert.rejects(placeOrder(db, 1, [[2, 1], [1, 6]]), /product 1 is out of stock/);
  assert.equal(await inStock(db, 2), 5);
  assert.equal(await orderCount(db, 1), 0);
}));
