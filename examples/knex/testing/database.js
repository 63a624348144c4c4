// Databases for the tests, by testdb. Copy this file, and delete the half of it that you don't use.
//
//   withDatabase    a database of its own for each test
//   workerDatabase  one database for each test file, which is made what the template is again before each test, while
//                   connections to it stay open
const { createHash } = require('node:crypto');
const { readFileSync, readdirSync } = require('node:fs');
const knex = require('knex');
const pg = require('pg');

// Where testdb is. What a test gets is another database on this server.
const adminUrl = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
const connect = (database) => knex({ client: 'pg', connection: Object.assign(new URL(adminUrl), { pathname: database }).href });

// What the template is made from: after a change of a migration there is another one.
const files = ['migrations', 'seeds'].flatMap((folder) => readdirSync(folder).sort().map((file) => `${folder}/${file}`));
const fingerprint = createHash('sha256').update(files.map((file) => readFileSync(file, 'utf8')).join('\n')).digest('hex');

// A client and not an instance of Knex, whose pool closes connections that are idle.
const admin = new pg.Client({ connectionString: adminUrl });
let template;

// The process that comes first makes the template; the others wait here.
beforeAll(async () => {
  await admin.connect();
  const { rows: [{ database, build }] } = await admin.query("SELECT * FROM testdb_template_begin('shop', $1)", [fingerprint]);
  if (build) {
    const building = connect(database);
    await building.migrate.latest();
    await building.seed.run();
    await building.destroy();
    await admin.query('SELECT testdb_template_finish($1)', [database]);
  }
  template = database;
});
afterAll(() => admin.end());

// The clone goes with the connection `admin`: when this process ends, however it ends.
const clone = async (label) => (await admin.query(
  "SELECT testdb_clone($1, scope => 'session', label => left($2, 100)) AS name", [template, label])).rows[0].name;

/** Use: test('...', withDatabase(async (db) => { ... })) */
exports.withDatabase = (run) => async () => {
  const name = await clone(expect.getState().currentTestName);
  const db = connect(name);
  const kept = await run(db).then(() => false, (error) => ({ error }));
  await db.destroy();
  await admin.query(kept ? "SELECT testdb_keep($1, '2 days')" : 'SELECT testdb_drop($1)', [name]);
  if (kept) {
    console.log(`Kept for 2 days: psql "host=${admin.host} port=${admin.port} user=${admin.user} dbname=${name}"`);
    throw kept.error;
  }
};

/** Use, at the top of a file: const database = workerDatabase(); and in its tests: database.db */
exports.workerDatabase = () => {
  const database = { rewind: () => admin.query('SELECT testdb_rewind($1)', [database.name]) };
  beforeAll(async () => {
    database.name = await clone('worker');
    database.db = connect(database.name);
  });
  beforeEach(() => database.rewind());
  afterAll(() => database.db.destroy());
  return database;
};
