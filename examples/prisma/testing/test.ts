// vitest's `test` with databases. Copy it. A test that names `db` has a client of Prisma for a database of its own; one that
// names `sameDb` has that of its worker, as the template is, and through connections that stay open.
import type { Client } from 'pg';
import { test as base, inject } from 'vitest';
import { connect, type Db } from '../src/db';
import { open, urlOf } from './server';

// The clone goes with the connection that asks for it: when the worker ends, however it ends. It is a client of `pg`, and not
// one of Prisma, since a pool closes connections that are idle.
const clone = async (admin: Client, label: string) => (await admin.query(
  "SELECT testdb_clone($1, scope => 'session', label => left($2, 100)) AS name", [inject('template'), label])).rows[0].name;

interface Databases {
  admin: Client;
  worker: { name: string; db: Db };
  db: Db;
  sameDb: Db;
}

export const test = base.extend<Databases>({
  admin: [async ({}, use) => {
    const admin = await open();
    await use(admin);
    await admin.end();
  }, { scope: 'worker' }],

  worker: [async ({ admin }, use) => {
    const name = await clone(admin, 'worker');
    const db = connect(urlOf(name));
    await use({ name, db });
    await db.$disconnect();
  }, { scope: 'worker' }],

  db: async ({ admin, task }, use) => {
    const name = await clone(admin, task.name);
    const db = connect(urlOf(name));
    await use(db);
    await db.$disconnect();
    if (task.result?.state === 'fail') {
      await admin.query("SELECT testdb_keep($1, '2 days')", [name]);
      console.log(`Kept for 2 days: psql "host=${admin.host} port=${admin.port} user=${admin.user} dbname=${name}"`);
    } else {
      await admin.query('SELECT testdb_drop($1)', [name]);
    }
  },

  sameDb: async ({ admin, worker }, use) => {
    await admin.query('SELECT testdb_rewind($1)', [worker.name]);
    await use(worker.db);
  },
});
