// Prepared statements, which a pool's connections keep when the database is rewound.
import { eq, sql } from 'drizzle-orm';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import { expect } from 'vitest';
import { product } from '../src/schema';
import { call, test } from '../testing/test';

for (const price of [1, 2, 3]) {
  test(`a statement that was prepared before the rewind, price ${price}`, async ({ sameDb }) => {
    const { rows: [{ name }] } = await sameDb.execute<{ name: string }>(sql`SELECT current_database()::text AS name`);
    const statement = sameDb.select().from(product).where(eq(product.id, sql.placeholder('id'))).prepare('product_by_id');
    const preparedAt = async () => (await sameDb.execute(
      sql`SELECT pg_backend_pid(), prepare_time FROM pg_prepared_statements WHERE name = 'product_by_id'`)).rows;
    const kettle = { id: 1, supplierId: 1, name: 'kettle', price: 30 };
    expect(await statement.execute({ id: 1 })).toEqual([kettle]);
    const before = await preparedAt();
    expect(before).toHaveLength(1);

    await sameDb.update(product).set({ price });
    expect(await statement.execute({ id: 1 })).toEqual([{ ...kettle, price }]);
    await call('testdb_rewind($1)', name);
    expect(await statement.execute({ id: 1 })).toEqual([kettle]);
    expect(await preparedAt()).toEqual(before);
  });
}

test('the migrations are known to have run', async ({ db }) => {
  const count = () => db.execute(sql`SELECT count(*)::integer FROM drizzle.__drizzle_migrations`);
  const { rows } = await count();
  await migrate(db, { migrationsFolder: 'drizzle' });
  expect((await count()).rows).toEqual(rows);
});
