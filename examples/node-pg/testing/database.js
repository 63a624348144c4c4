// Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
//
//   withDatabase    a database of its own for each test
//   workerDatabase  one database for each test file, which node:test runs in a process of its own; `rewind` makes it what the
//                   template is again, while connections to it stay open
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { after } from 'node:test';
import pg from 'pg';

// Where testdb is. What a test gets is another database on this server.
const adminUrl = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
const clients = [];
const connect = async (database) => {
  const url = Object.assign(new URL(adminUrl), database && { pathname: database });
  clients.unshift(new pg.Client({ connectionString: url.href }));
  await clients[0].connect();
  return clients[0];
};
const admin = await connect();
// Last come, first served: the clones end with the first of them.
after(async () => { for (const client of clients) await client.end(); });

// What the template is made from: after a change of a migration there is another one.
const folder = new URL('../migrations/', import.meta.url);
const schema = readdirSync(folder).sort().map((file) => readFileSync(new URL(file, folder), 'utf8')).join('\n');
const fingerprint = createHash('sha256').update(schema).digest('hex');

// Of the processes that start together one makes the template, and the others wait here. One that was interrupted leaves none.
const { rows: [template] } = await admin.query("SELECT * FROM testdb_template_begin('shop', $1)", [fingerprint]);
if (template.build) {
  const building = await connect(template.database);
  await building.query(schema);
  await building.end();
  await admin.query('SELECT testdb_template_finish($1)', [template.database]);
}

// The clone goes with the connection that asked for it: when this process ends, however it ends.
const clone = async (label) => connect((await admin.query(
  "SELECT testdb_clone($1, scope => 'session', label => left($2, 100)) AS name", [template.database, label])).rows[0].name);

/** Use: test('...', withDatabase(async (db) => { ... })) */
export const withDatabase = (run) => async (t) => {
  const db = await clone(t.name);
  const kept = await run(db, t).then(() => false, (error) => ({ error }));
  await db.end();
  await admin.query(kept ? "SELECT testdb_keep($1, '2 days')" : 'SELECT testdb_drop($1)', [db.database]);
  if (kept) {
    console.log(`Kept for 2 days: psql "host=${db.host} port=${db.port} user=${db.user} dbname=${db.database}"`);
    throw kept.error;
  }
};

/** Use: const db = await workerDatabase(); beforeEach(() => rewind(db)); */
export const workerDatabase = () => clone('worker');
export const rewind = (db) => admin.query('SELECT testdb_rewind($1)', [db.database]);
