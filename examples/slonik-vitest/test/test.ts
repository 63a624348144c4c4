// vitest's `test` with databases. A test that names `db` has a pool of slonik for one of its own; one that names `sameDb` for that
// of its worker, as the template is, and through connections that stay open.
import { createPool, type DatabasePool } from 'slonik';
import { test as base } from 'vitest';
import { createTestDatabasePooler } from '../testing/pooler';

// Where testdb is.
export const pooler = createTestDatabasePooler(process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres');

const openDatabase = async (label: string) => {
  const database = await pooler.getTestDatabase(label);
  return { database, pool: await createPool(database.getConnectionUri()) };
};
let worker: Awaited<ReturnType<typeof openDatabase>> | undefined;

export const test = base.extend<{ db: DatabasePool; sameDb: DatabasePool }>({
  db: async ({ task }, use) => {
    const { database, pool } = await openDatabase(task.name);
    await use(pool);
    await pool.end();
    await (task.result?.state === 'fail' ? database.keep() : database.destroy());
  },
  sameDb: async ({}, use) => {
    worker ??= await openDatabase('worker');
    await worker.database.rewind();
    await use(worker.pool);
  },
});
