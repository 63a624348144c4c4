// vitest's `test` with databases. Copy it. A test that names `db` has one of its own; one that names `sameDb` has that of its
// worker, as the template is, and through connections that stay open.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import pg from 'pg';
import { test as base } from 'vitest';
import { connect, type Db } from '../src/db';

// Where testdb is. The template and its copies are other databases on this server.
const adminUrl = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
export const urlOf = (database: string) => Object.assign(new URL(adminUrl), { pathname: database }).href;

// What the template is made from: after a change of a migration there is another one.
const migrations = readdirSync('drizzle').filter((file) => file.endsWith('.sql')).sort();
const fingerprint = createHash('sha256')
  .update(migrations.map((file) => readFileSync(`drizzle/${file}`, 'utf8')).join('\n')).digest('hex');

interface Fixtures {
  admin: pg.Client;
  clone: (label: string) => Promise<string>;
  worker: { name: string; db: Db };
  db: Db;
  sameDb: Db;
}

export const test = base.extend<Fixtures>({
  // A worker's own connection. When the worker ends, however it ends, its databases are dropped. It is a client and not a pool,
  // since a pool closes connections that are idle.
  admin: [async ({}, use) => {
    const admin = new pg.Client({ connectionString: adminUrl });
    await admin.connect();
    await use(admin);
    await admin.end();
  }, { scope: 'worker' }],

  // The worker that comes first makes the template; the others wait for it.
  clone: [async ({ admin }, use) => {
    const { rows: [{ database, build }] } = await admin.query("SELECT * FROM testdb_template_begin('shop', $1)", [fingerprint]);
    if (build) {
      const db = connect(urlOf(database));
      await migrate(db, { migrationsFolder: 'drizzle' });
      await db.$client.end();
      await admin.query('SELECT testdb_template_finish($1)', [database]);
    }
    await use(async (label) => (await admin.query(
      "SELECT testdb_clone($1, scope => 'session', label => left($2, 100)) AS name", [database, label])).rows[0].name);
  }, { scope: 'worker' }],

  worker: [async ({ clone }, use) => {
    const name = await clone('worker');
    const db = connect(urlOf(name));
    await use({ name, db });
    await db.$client.end();
  }, { scope: 'worker' }],

  db: async ({ admin, clone, task }, use) => {
    const name = await clone(task.name);
    const db = connect(urlOf(name));
    await use(db);
    await db.$client.end();
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
