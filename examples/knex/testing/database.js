// Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
const { readFileSync, readdirSync } = require('node:fs');
const knex = require('knex');

// Where testdb is. What a test gets is another database on this server.
const server = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
const open = (name, pool) => knex({ client: 'pg', connection: new URL(name, server).href, pool });
// One connection that stays. The clones go with it: when this process ends, however it ends.
const admin = open('postgres', { min: 1, max: 1 });
const call = async (text, ...values) => (await admin.raw(`SELECT * FROM ${text}`, values)).rows[0];
let template, worker;

// Of the processes that start together one makes the template, and the others wait here. After a change of a migration or a
// seed there is another one.
beforeAll(async () => {
  const files = ['migrations', 'seeds'].flatMap((folder) => readdirSync(folder).sort().map((file) => `${folder}/${file}`));
  template = await call("testdb_template_begin('shop', md5(?))", files.map((file) => readFileSync(file, 'utf8')).join('\n'));
  if (template.build) {
    const db = open(template.database);
    await db.migrate.latest();
    await db.seed.run();
    await db.destroy();
    await call('testdb_template_finish(?)', template.database);
  }
});
afterAll(() => Promise.all([worker?.destroy(), admin.destroy()]));

const clone = async (label) =>
  open((await call("testdb_clone(?, scope => 'session', label => left(?, 100)) AS name", template.database, label)).name);

/** A database for each test. Use: test('...', withDatabase(async (db) => { ... })) */
exports.withDatabase = (run) => async () => {
  const db = await clone(expect.getState().currentTestName);
  const name = db.client.database();
  const error = await run(db).then(() => null, (error) => error);
  await db.destroy();
  if (!error) return call('testdb_drop(?)', name);
  await call("testdb_keep(?, '2 days')", name);
  console.log(`Kept for 2 days: psql "${Object.assign(new URL(name, server), { password: '' })}"`);
  throw error;
};

/** One for all tests of a file, with the template's content again before each, while connections stay. It is used in the same way. */
exports.withSameDatabase = (run) => async () => {
  worker ??= await clone('worker');
  await call('testdb_rewind(?)', worker.client.database());
  await run(worker);
};
