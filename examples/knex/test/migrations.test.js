// Migrations, forward and back, on a database that has data.
const { readdirSync } = require('node:fs');
const { withDatabase, withSameDatabase } = require('../testing/database');

const tables = async (db) => (await db('pg_tables').where({ schemaname: 'public' }).orderBy('tablename')).map((row) => row.tablename);

test('nothing is left to do', withDatabase(async (db) => {
  const [, done] = await db.migrate.latest();
  expect(done).toEqual([]);
  expect(await db('knex_migrations')).toHaveLength(readdirSync('migrations').length);
}));

test('back and forward', withDatabase(async (db) => {
  const before = await tables(db);
  await db.migrate.rollback(null, true);
  expect(await tables(db)).toEqual(['knex_migrations', 'knex_migrations_lock']);
  await db.migrate.latest();
  expect(await tables(db)).toEqual(before);
}));

for (const time of ['once', 'twice']) {
  test(`back in the worker's database, ${time}`, withSameDatabase(async (db) => {
    expect(await db('stock')).toHaveLength(3);
    await db.migrate.down();
    await expect(db('stock')).rejects.toMatchObject({ code: '42P01' });
  }));
}

test('forward again, by the rewind', withSameDatabase(async (db) => {
  expect(await db('stock')).toHaveLength(3);
}));
