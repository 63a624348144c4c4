import assert from 'node:assert/strict';
import test from 'node:test';
import { withDatabase } from '../testing/database.js';

test('a test may change the schema', withDatabase(async (db) => {
  await db.query('ALTER TABLE product ADD COLUMN weight integer NOT NULL DEFAULT 1');
  assert.equal((await db.query('SELECT sum(weight)::integer AS sum FROM product')).rows[0].sum, 3);
}));

test('the next one has the template\'s', withDatabase(async (db) => {
  await assert.rejects(db.query('SELECT weight FROM product'), { code: '42703' });
}));
