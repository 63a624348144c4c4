// The application: a shop. It commits for itself, as applications do.
import { and, eq, gte, sql, sum } from 'drizzle-orm';
import type { Db } from './db';
import { payment, product, purchase, purchaseItem, stock } from './schema';

/** Orders [product, amount] pairs for a customer, and returns the order's number. */
export const placeOrder = (db: Db, customerId: number, items: Array<[product: number, amount: number]>) =>
  db.transaction(async (transaction) => {
    const [{ purchaseId }] = await transaction.insert(purchase).values({ customerId }).returning({ purchaseId: purchase.id });
    for (const [productId, amount] of items) {
      const { rowCount } = await transaction.update(stock).set({ amount: sql`${stock.amount} - ${amount}` })
        .where(and(eq(stock.productId, productId), gte(stock.amount, amount)));
      if (rowCount === 0) {
        throw new Error(`product ${productId} is out of stock`);
      }
      await transaction.insert(purchaseItem).values({ purchaseId, productId, amount });
    }
    return purchaseId;
  });

export async function inStock(db: Db, productId: number) {
  const [row] = await db.select({ amount: sum(stock.amount).mapWith(Number) }).from(stock).where(eq(stock.productId, productId));
  return row.amount;
}

export const orderCount = (db: Db, customerId: number) => db.$count(purchase, eq(purchase.customerId, customerId));

/** Pays for an order, and returns the total. */
export async function pay(db: Db, purchaseId: number) {
  const [{ total }] = await db.select({ total: sql`sum(${product.price} * ${purchaseItem.amount})`.mapWith(Number) })
    .from(purchaseItem).innerJoin(product, eq(product.id, purchaseItem.productId))
    .where(eq(purchaseItem.purchaseId, purchaseId));
  await db.insert(payment).values({ purchaseId, total });
  return total;
}

export async function revenue(db: Db) {
  const [{ total }] = await db.select({ total: sum(payment.total).mapWith(Number) }).from(payment);
  return total ?? 0;
}
