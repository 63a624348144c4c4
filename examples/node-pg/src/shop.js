// The application: a shop. `db` is a pool of `pg`. It commits for itself, as applications do.

async function transaction(db, work) {
  const client = await db.connect();
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

async function value(db, text, values) {
  const { rows } = await db.query({ text, values, rowMode: 'array' });
  return rows[0][0];
}

/** Orders [[product, amount], ...] for a customer, and returns the order's number. */
export function placeOrder(db, customer, items) {
  return transaction(db, async (client) => {
    const order = await value(client, 'INSERT INTO purchase (customer_id) VALUES ($1) RETURNING id', [customer]);
    for (const [product, amount] of items) {
      const { rowCount } = await client.query(
        'UPDATE stock SET amount = amount - $1 WHERE product_id = $2 AND amount >= $1', [amount, product]);
      if (rowCount === 0) {
        throw new Error(`product ${product} is out of stock`);
      }
      await client.query('INSERT INTO purchase_item VALUES ($1, $2, $3)', [order, product, amount]);
    }
    return Number(order);
  });
}

export const inStock = async (db, product) =>
  Number(await value(db, 'SELECT sum(amount) FROM stock WHERE product_id = $1', [product]));

export const orderCount = async (db, customer) =>
  Number(await value(db, 'SELECT count(*) FROM purchase WHERE customer_id = $1', [customer]));

/** Pays for an order, and returns the total. */
export const pay = async (db, order) =>
  Number(await value(db,
    `INSERT INTO payment (purchase_id, total)
     SELECT i.purchase_id, sum(p.price * i.amount)
     FROM purchase_item i JOIN product p ON p.id = i.product_id
     WHERE i.purchase_id = $1 GROUP BY 1 RETURNING total`, [order]));

export const revenue = async (db) => Number(await value(db, 'SELECT coalesce(sum(total), 0) FROM payment'));
