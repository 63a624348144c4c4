// Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
import { readFileSync, readdirSync } from 'node:fs';
import { beforeEach } from 'node:test';
import pg from 'pg';

// Where testdb is. What a test gets is another database on this server.
const server = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
const open = (name, max) => new pg.Pool({
  connectionString: new URL(name, server).href, max, idleTimeoutMillis: 0, allowExitOnIdle: true,
}).on('error', () => {}); // a connection that is on its way out may hear of the drop
// One connection that stays. The clones go with it: when this process ends, however it ends.
const admin = open('postgres', 1);
const call = async (text, ...values) => (await admin.query(`SELECT * FROM ${text}`, values)).rows[0];

// Of the processes that start together one makes the template, and the others wait here. After a change of a migration there is
// another one.
const schema = readdirSync('migrations').sort().map((file) => readFileSync(`migrations/${file}`, 'utf8')).join('\n');
const { database, build } = await call("testdb_template_begin('shop', md5($1))", schema);
if (build) {
  const db = open(database);
  await db.query(schema);
  await db.end();
  await call('testdb_template_finish($1)', database);
}
const clone = async (label) =>
  (await call("testdb_clone($1, scope => 'session', label => left($2, 100)) AS name", database, label)).name;

/** A database for each test. Use: test('...', withDatabase(async (db) => { ... })) */
export const withDatabase = (run) => async (t) => {
  const name = await clone(t.name);
  const db = open(name);
  const error = await run(db, t).then(() => null, (error) => error);
  await db.end();
  if (!error) return call('testdb_drop($1)', name);
  await call("testdb_keep($1, '2 days')", name);
  console.log(`Kept for 2 days: psql "${Object.assign(new URL(name, server), { password: '' })}"`);
  throw error;
};

/** One for all tests of a file, with the template's content again before each, while connections stay. Use: const db = await workerDatabase(); */
export const workerDatabase = async () => {
  const name = await clone('worker');
  beforeEach(() => call('testdb_rewind($1)', name));
  return open(name);
};
