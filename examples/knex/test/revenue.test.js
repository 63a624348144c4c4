// One database for this file, rewound before each test.
const { orderCount, pay, placeOrder, revenue } = require('../src/shop');
const { workerDatabase } = require('../testing/database');

const database = workerDatabase();

for (const [product, price] of [[1, 30], [2, 25.5], [3, 12]]) {
  test.each([1, 2, 3, 4, 5])(`revenue from %d of product ${product}`, async (amount) => {
    const { db } = database;
    expect(await revenue(db)).toBe(0);
    await pay(db, await placeOrder(db, 1, [[product, amount]]));
    expect(await revenue(db)).toBe(price * amount);
  });
}

test('no orders at first', async () => {
  expect(await orderCount(database.db, 1)).toBe(0);
});

test('a table may go', async () => {
  await database.db.schema.dropTable('shipment');
});

test('the table is back', async () => {
  expect(await database.db('shipment')).toEqual([]);
});
