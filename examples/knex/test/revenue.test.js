// One database for this file, rewound before each test.
const { orderCount, pay, placeOrder, revenue } = require('../src/shop');
const { withSameDatabase } = require('../testing/database');

for (const [product, price] of [[1, 30], [2, 25.5], [3, 12]]) {
  for (const amount of [1, 2, 3, 4, 5]) {
    test(`revenue from ${amount} of product ${product}`, withSameDatabase(async (db) => {
      expect(await revenue(db)).toBe(0);
      await pay(db, await placeOrder(db, 1, [[product, amount]]));
      expect(await revenue(db)).toBe(price * amount);
    }));
  }
}

test('no orders at first', withSameDatabase(async (db) => {
  expect(await orderCount(db, 1)).toBe(0);
}));

test('a table may go', withSameDatabase(async (db) => {
  await db.schema.dropTable('shipment');
}));

test('the table is back', withSameDatabase(async (db) => {
  expect(await db('shipment')).toEqual([]);
}));
