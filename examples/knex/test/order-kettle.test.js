const { inStock, orderCount, pay, placeOrder } = require('../src/shop');
const { withDatabase } = require('../testing/database');

for (const amount of [1, 2, 3, 4, 5]) {
  test(`ordering ${amount} of the kettle`, withDatabase(async (db) => {
    // Number 1, each time: the sequences are the template's, too.
    expect(await placeOrder(db, 1, [[1, amount]])).toBe(1);
    expect(await inStock(db, 1)).toBe(5 - amount);
    expect(await pay(db, 1)).toBe(30 * amount);
  }));
}

test('nothing is taken if something is missing', withDatabase(async (db) => {
  await expect(placeOrder(db, 1, [[2, 1], [1, 6]])).rejects.toThrow('product 1 is out of stock');
  expect(await inStock(db, 2)).toBe(5);
  expect(await orderCount(db, 1)).toBe(0);
}));
