const { inStock, orderCount, pay, placeOrder } = require('../src/shop');
const { withDatabase } = require('../testing/database');

for (const amount of [1, 2, 3, 4, 5]) {
  test(`ordering ${amount} of the rake`, withDatabase(async (db) => {
    // Number 1, each time: the sequences are the template's, too.
    expect(await placeOrder(db, 1, [[3, amount]])).toBe(1);
    expect(await inStock(db, 3)).toBe(5 - amount);
    expect(await pay(db, 1)).toBe(12 * amount);
  }));
}

test('nothing is taken if something is missing', withDatabase(async (db) => {
  await expect(placeOrder(db, 1, [[1, 1], [3, 6]])).rejects.toThrow('product 3 is out of stock');
  expect(await inStock(db, 1)).toBe(5);
  expect(await orderCount(db, 1)).toBe(0);
}));
