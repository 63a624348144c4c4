// The application: a shop. `db` is an instance of Knex. It commits for itself, as applications do.

/** Orders [[product, amount], ...] for a customer, and returns the order's number. */
exports.placeOrder = (db, customer, items) => db.transaction(async (transaction) => {
  const [{ id }] = await transaction('purchase').insert({ customer_id: customer }, 'id');
  for (const [product, amount] of items) {
    const taken = await transaction('stock').where({ product_id: product }).where('amount', '>=', amount).decrement({ amount });
    if (taken === 0) {
      throw new Error(`product ${product} is out of stock`);
    }
    await transaction('purchase_item').insert({ purchase_id: id, product_id: product, amount });
  }
  return id;
});

exports.inStock = async (db, product) => Number((await db('stock').where({ product_id: product }).sum('amount').first()).sum);

exports.orderCount = async (db, customer) => Number((await db('purchase').where({ customer_id: customer }).count().first()).count);

/** Pays for an order, and returns the total. */
exports.pay = async (db, order) => {
  const { total } = await db('purchase_item AS i').join('product AS p', 'p.id', 'i.product_id').where({ purchase_id: order })
    .sum({ total: db.raw('p.price * i.amount') }).first();
  await db('payment').insert({ purchase_id: order, total });
  return Number(total);
};

exports.revenue = async (db) => Number((await db('payment').sum('total').first()).sum ?? 0);
