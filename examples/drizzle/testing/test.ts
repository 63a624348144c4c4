// vitest's `test` with databases, by testdb. Copy this file. A test that names `db` has one of its own; one that names `sameDb`
// has that of its worker, as the template is, and through connections that stay open.
import { readFileSync, readdirSync } from 'node:fs';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import pg from 'pg';
import { test as base } from 'vitest';
import { connect, type Db } from '../src/db';

// Where testdb is. The template, and what a test gets, are other databases on this server.
const server = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
const open = (name: string) => connect(new URL(name, server).href);
// One connection that stays. The clones go with it: when the worker ends, however it ends.
const admin = new pg.Pool({ connectionString: server, max: 1, idleTimeoutMillis: 0 });
export const call = async (text: string, ...values: string[]) => (await admin.query(`SELECT * FROM ${text}`, values)).rows[0];

// Of the workers one makes the template, and the others wait here. After a change of a migration there is another one.
const files = readdirSync('drizzle').filter((file) => file.endsWith('.sql')).sort();
const source = files.map((file) => readFileSync(`drizzle/${file}`, 'utf8')).join('\n');
const { database, build } = await call("testdb_template_begin('shop', md5($1))", source);
if (build) {
  const db = open(database);
  await migrate(db, { migrationsFolder: 'drizzle' });
  await db.$client.end();
  await call('testdb_template_finish($1)', database);
}
const clone = async (label: string): Promise<{ name: string; db: Db }> => {
  const { name } = await call("testdb_clone($1, scope => 'session', label => left($2, 100)) AS name", database, label);
  return { name, db: open(name) };
};

let worker: ReturnType<typeof clone> | undefined;
export const test = base.extend<{ db: Db; sameDb: Db }>({
  db: async ({ task }, use) => {
    const { name, db } = await clone(task.name);
    // The pool may hear of the drop from a connection that is on its way out.
    db.$client.on('error', () => {});
    await use(db);
    await db.$client.end();
    const failed = task.result?.state === 'fail';
    await call(failed ? "testdb_keep($1, '2 days')" : 'testdb_drop($1)', name);
    if (failed) console.log(`Kept for 2 days: psql "${Object.assign(new URL(name, server), { password: '' })}"`);
  },
  sameDb: async ({}, use) => {
    const { name, db } = await (worker ??= clone('worker'));
    await call('testdb_rewind($1)', name);
    await use(db);
  },
});
