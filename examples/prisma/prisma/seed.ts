// The demo data.
import type { Db } from '../src/db';

export async function seed(db: Db) {
  await db.supplier.create({
    data: {
      name: 'Mill & Sons',
      products: { create: [{ name: 'kettle', price: 30 }, { name: 'teapot', price: 25.5 }, { name: 'rake', price: 12 }] },
    },
  });
  await db.category.createMany({ data: [{ name: 'kitchen' }, { name: 'garden' }] });
  await db.productCategory.createMany({ data: [[1, 1], [2, 1], [3, 2]].map(([productId, categoryId]) => ({ productId, categoryId })) });
  for (const [email, street, city] of [['ada@example.com', '1 High Street', 'Leeds'], ['bob@example.com', '2 Low Road', 'York']]) {
    await db.customer.create({ data: { email, addresses: { create: { street, city } } } });
  }
  await db.warehouse.create({
    data: { city: 'Leeds', stock: { create: [1, 2, 3].map((productId) => ({ productId, amount: 5 })) } },
  });
}
