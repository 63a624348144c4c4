// Databases for the tests, by testdb. Copy this file.
import { readFileSync, readdirSync } from 'node:fs';
import pg from 'pg';

/** Hands out databases on the server that the URL names. They are copies of a template that is made from the migrations. */
export function createTestDatabasePooler(connectionUrl: string) {
  const urlOf = (name: string) => Object.assign(new URL(connectionUrl), { pathname: name });
  // One connection that stays. The copies go with it: when this process ends, however it ends.
  const admin = new pg.Pool({ connectionString: connectionUrl, max: 1, idleTimeoutMillis: 0 });
  const call = async (text: string, ...values: string[]) => (await admin.query(`SELECT * FROM ${text}`, values)).rows[0];

  // Of the processes that start together one makes it, and the others wait. After a change of a migration there is another one.
  const makeTemplate = async (): Promise<string> => {
    const schema = readdirSync('migrations').sort().map((file) => readFileSync(`migrations/${file}`, 'utf8')).join('\n');
    const { database, build } = await call("testdb_template_begin('shop', md5($1))", schema);
    if (build) {
      const building = new pg.Pool({ connectionString: urlOf(database).href });
      await building.query(schema);
      await building.end();
      await call('testdb_template_finish($1)', database);
    }
    return database;
  };
  let template: Promise<string> | undefined;

  return {
    getTestDatabase: async (label = '') => {
      const sql = "testdb_clone($1, scope => 'session', label => left($2, 100)) AS name";
      const { name } = await call(sql, await (template ??= makeTemplate()), label);
      return {
        name: (): string => name,
        getConnectionUri: () => urlOf(name).href,
        /** Drops the database, whoever is still connected to it. */
        destroy: () => call('testdb_drop($1)', name),
        /** Makes the database what the template is again, while connections to it stay open. */
        rewind: () => call('testdb_rewind($1)', name),
        /** Leaves the database to whoever wants to look at it, and says how to. */
        keep: async () => {
          await call("testdb_keep($1, '2 days')", name);
          console.log(`Kept for 2 days: psql "${Object.assign(urlOf(name), { password: '' })}"`);
        },
      };
    },
    end: () => admin.end(),
  };
}
