// vitest's `test` with databases. A test that names `db` has a pool for one of its own; one that names `sameDb` for that of its
// worker, as the template is, and through connections that stay open.
import { createPool, type DatabasePool } from 'slonik';
import { afterAll, test as base, inject } from 'vitest';
import { createTestDatabasePooler, type TestDatabase } from './pooler';

const pooler = createTestDatabasePooler(inject('templateUrl'));
let worker: { database: TestDatabase; pool: DatabasePool } | undefined;

afterAll(async () => {
  await worker?.pool.end();
  await worker?.database.destroy();
  await pooler.end();
});

export const test = base.extend<{ db: DatabasePool; sameDb: DatabasePool }>({
  db: async ({ task }, use) => {
    const database = await pooler.getTestDatabase(task.name);
    const pool = await createPool(database.getConnectionUri());
    await use(pool);
    await pool.end();
    if (task.result?.state === 'fail') {
      console.log('Kept for 2 days:', await database.keep());
    } else {
      await database.destroy();
    }
  },
  sameDb: async ({}, use) => {
    if (!worker) {
      const database = await pooler.getTestDatabase('worker');
      worker = { database, pool: await createPool(database.getConnectionUri()) };
    }
    await worker.database.rewind();
    await use(worker.pool);
  },
});
