// Playwright's `test` with an application whose database is the template's copy at the start of every test. Copy this file.
//
//   app     the application: one process for each worker, with a database of its own. Before each test the database is rewound,
//           while the application runs on, and its pool's connections stay open
//   fresh   test.use({ fresh: true }): a new database for each test instead, and so a new application
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { test as base } from '@playwright/test';
import pg from 'pg';

// Where testdb is. The template and its copies are other databases on this server.
const adminUrl = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
const urlOf = (database) => Object.assign(new URL(adminUrl), { pathname: database });
export const connect = async (database) => {
  const client = new pg.Client({ connectionString: database ? urlOf(database).href : adminUrl });
  await client.connect();
  return client;
};

// What the template is made from: after a change of a migration there is another one.
const schema = readdirSync('migrations').sort().map((file) => readFileSync(`migrations/${file}`, 'utf8')).join('\n');
const fingerprint = createHash('sha256').update(schema).digest('hex');

// Starts the application in a new copy of the template. The copy goes with the connection `admin`.
const start = async (admin, template, label) => {
  const { rows: [{ database }] } = await admin.query(
    "SELECT testdb_clone($1, scope => 'session', label => left($2, 100)) AS database", [template, label]);
  const child = spawn('node', ['src/server.js'], {
    env: { ...process.env, DATABASE_URL: urlOf(database).href, PORT: 0 }, stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [url] = await once(child.stdout.setEncoding('utf8'), 'data');
  return { database, url: url.trim(), pid: child.pid, stop: () => child.kill() && once(child, 'exit') };
};

export const test = base.extend({
  fresh: [false, { option: true }],

  // A worker's own connection. When the worker ends, however it ends, its databases are dropped.
  admin: [async ({}, use) => {
    const admin = await connect();
    await use(admin);
    await admin.end();
  }, { scope: 'worker' }],

  // The worker that comes first makes the template; the others wait for it.
  template: [async ({ admin }, use) => {
    const { rows: [{ database, build }] } = await admin.query(
      "SELECT * FROM testdb_template_begin('shop', $1)", [fingerprint]);
    if (build) {
      const building = await connect(database);
      await building.query(schema);
      await building.end();
      await admin.query('SELECT testdb_template_finish($1)', [database]);
    }
    await use(database);
  }, { scope: 'worker' }],

  workerApp: [async ({ admin, template }, use) => {
    const app = await start(admin, template, 'worker');
    await use(app);
    await app.stop();
  }, { scope: 'worker' }],

  app: [async ({ admin, template, workerApp, fresh }, use, testInfo) => {
    const app = fresh ? await start(admin, template, testInfo.title) : workerApp;
    await (fresh || admin.query('SELECT testdb_rewind($1)', [app.database]));
    await use(app);
    // Playwright goes on with a new worker after a failure, so the database stays as the test has left it.
    if (testInfo.status !== testInfo.expectedStatus) {
      await admin.query("SELECT testdb_keep($1, '2 days')", [app.database]);
      const { hostname, port, username } = new URL(adminUrl);
      console.log(`Kept for 2 days: psql "host=${hostname} port=${port || 5432} user=${username} dbname=${app.database}"`);
    }
    await (fresh && app.stop());
  }, { auto: true }],

  baseURL: ({ app }, use) => use(app.url),
});
