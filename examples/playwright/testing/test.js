// Playwright's `test` with an application whose database is the template's copy at the start of every test. Copy this file.
//
//   app     the application: one process for each worker, with a database of its own. Before each test the database is rewound,
//           while the application runs on, and its pool's connections stay open
//   fresh   test.use({ fresh: true }): a new database for each test instead, and so a new application
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { test as base } from '@playwright/test';
import pg from 'pg';

// Where testdb is. The template and its copies are other databases on this server.
const server = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
export const open = (name, max) => new pg.Pool({ connectionString: new URL(name, server).href, max, idleTimeoutMillis: 0 });
// A worker's own connection. When the worker ends, however it ends, its databases are dropped.
const admin = open('postgres', 1);
export const call = async (text, ...values) => (await admin.query(`SELECT * FROM ${text}`, values)).rows[0];
// What the template is made from: after a change of a migration there is another one.
const schema = readdirSync('migrations').sort().map((file) => readFileSync(`migrations/${file}`, 'utf8')).join('\n');

// Starts the application in a new copy of the template. The worker that comes first makes that; the others wait for it.
const start = async (label) => {
  const { database, build } = await call("testdb_template_begin('shop', md5($1))", schema);
  if (build) {
    const db = open(database);
    await db.query(schema);
    await db.end();
    await call('testdb_template_finish($1)', database);
  }
  const { name } = await call("testdb_clone($1, scope => 'session', label => left($2, 100)) AS name", database, label);
  const env = { ...process.env, DATABASE_URL: new URL(name, server).href, PORT: 0 };
  const child = spawn('node', ['src/server.js'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  return { name, child, url: String(await once(child.stdout, 'data')).trim() };
};

let workerApp;
process.on('exit', () => workerApp?.child.kill());
export const test = base.extend({
  fresh: [false, { option: true }],
  app: [async ({ fresh }, use, testInfo) => {
    const app = fresh ? await start(testInfo.title) : (workerApp ??= await start('worker'));
    await call('testdb_rewind($1)', app.name);
    await use(app);
    // Playwright goes on with a new worker after a failure, so the database stays as the test has left it.
    if (testInfo.status !== testInfo.expectedStatus) {
      await call("testdb_keep($1, '2 days')", app.name);
      console.log(`Kept for 2 days: psql "${Object.assign(new URL(app.name, server), { password: '' })}"`);
    }
    if (fresh) app.child.kill();
  }, { auto: true }],
  baseURL: ({ app }, use) => use(app.url),
});
