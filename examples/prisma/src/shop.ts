// The application: a shop. It commits for itself, as applications do.
import type { Db } from './db';

/** Orders [product, amount] pairs for a customer, and returns the order's number. */
export const placeOrder = (db: Db, customerId: number, items: Array<[product: number, amount: number]>) =>
  db.$transaction(async (transaction) => {
    const { id: purchaseId } = await transaction.purchase.create({ data: { customerId } });
    for (const [productId, amount] of items) {
      const { count } = await transaction.stock.updateMany({
        where: { productId, amount: { gte: amount } }, data: { amount: { decrement: amount } },
      });
      if (count === 0) {
        throw new Error(`product ${productId} is out of stock`);
      }
      await transaction.purchaseItem.create({ data: { purchaseId, productId, amount } });
    }
    return purchaseId;
  });

export const inStock = async (db: Db, productId: number) =>
  (await db.stock.aggregate({ where: { productId }, _sum: { amount: true } }))._sum.amount;

export const orderCount = (db: Db, customerId: number) => db.purchase.count({ where: { customerId } });

/** Pays for an order, and returns the total. */
export async function pay(db: Db, purchaseId: number) {
  const items = await db.purchaseItem.findMany({ where: { purchaseId }, include: { product: true } });
  const total = items.reduce((sum, { amount, product }) => sum + amount * Number(product.price), 0);
  await db.payment.create({ data: { purchaseId, total } });
  return total;
}

export const revenue = async (db: Db) => Number((await db.payment.aggregate({ _sum: { total: true } }))._sum.total ?? 0);
