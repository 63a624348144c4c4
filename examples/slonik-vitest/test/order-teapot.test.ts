import { describe, expect } from 'vitest';
import { inStock, orderCount, pay, placeOrder } from '../src/shop';
import { test } from './test';

describe('ordering the teapot', () => {
  for (const amount of [1, 2, 3, 4, 5]) {
    test(`${amount} of it`, async ({ db }) => {
      // Number 1, each time: the sequences are the template's, too.
      expect(await placeOrder(db, 1, [[2, amount]])).toBe(1);
      expect(await inStock(db, 2)).toBe(5 - amount);
      expect(await pay(db, 1)).toBe(25.5 * amount);
    });
  }

  test('takes nothing if something is missing', async ({ db }) => {
    await expect(placeOrder(db, 1, [[3, 1], [2, 6]])).rejects.toThrow('product 2 is out of stock');
    expect(await inStock(db, 3)).toBe(5);
    expect(await orderCount(db, 1)).toBe(0);
  });
});
