// A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 node --test test/kept.test.js
import assert from 'node:assert/strict';
import test from 'node:test';
import { orderCount, placeOrder } from '../src/shop.js';
import { withDatabase } from '../testing/database.js';

test('fails', { skip: !process.env.SHOW_FAILURE }, withDatabase(async (db) => {
  await placeOrder(db, 1, [[1, 1]]);
  assert.equal(await orderCount(db, 1), 0);
}));
