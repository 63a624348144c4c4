// The application: a shop. It commits for itself, as applications do.
import { type CommonQueryMethods, type DatabasePool, sql } from 'slonik';
import { z } from 'zod';

const number = (name: string) => sql.type(z.object({ [name]: z.number() }));

/** Orders [product, amount] pairs for a customer, and returns the order's number. */
export const placeOrder = (db: DatabasePool, customer: number, items: Array<[product: number, amount: number]>) =>
  db.transaction(async (transaction) => {
    const order = await transaction.oneFirst(
      number('id')`INSERT INTO purchase (customer_id) VALUES (${customer}) RETURNING id::integer`);
    for (const [product, amount] of items) {
      const { rowCount } = await transaction.query(sql.unsafe`
        UPDATE stock SET amount = amount - ${amount} WHERE product_id = ${product} AND amount >= ${amount}`);
      if (rowCount === 0) {
        throw new Error(`product ${product} is out of stock`);
      }
      await transaction.query(sql.unsafe`INSERT INTO purchase_item VALUES (${order}, ${product}, ${amount})`);
    }
    return order;
  });

export const inStock = (db: CommonQueryMethods, product: number) =>
  db.oneFirst(number('sum')`SELECT sum(amount)::integer AS sum FROM stock WHERE product_id = ${product}`);

export const orderCount = (db: CommonQueryMethods, customer: number) =>
  db.oneFirst(number('count')`SELECT count(*)::integer AS count FROM purchase WHERE customer_id = ${customer}`);

/** Pays for an order, and returns the total. */
export const pay = (db: CommonQueryMethods, order: number) =>
  db.oneFirst(number('total')`
    INSERT INTO payment (purchase_id, total)
    SELECT i.purchase_id, sum(p.price * i.amount)
    FROM purchase_item i JOIN product p ON p.id = i.product_id
    WHERE i.purchase_id = ${order} GROUP BY 1 RETURNING total::float`);

export const revenue = (db: CommonQueryMethods) =>
  db.oneFirst(number('sum')`SELECT coalesce(sum(total), 0)::float AS sum FROM payment`);
