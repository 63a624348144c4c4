// Databases for the tests, by testdb. Copy this file.
import { createPool, sql } from 'slonik';
import { z } from 'zod';

export type TestDatabase = {
  /** Drops the database, whoever is still connected to it. */
  destroy: () => Promise<void>;
  getConnectionUri: () => string;
  name: () => string;
  /** Leaves the database to whoever wants to look at it, and returns how to. */
  keep: () => Promise<string>;
  /** Makes the database what the template is again, while connections to it stay open. */
  rewind: () => Promise<void>;
};

// A run that is killed leaves its databases no longer than this. It is a lifetime, and not the scope 'session', because a pool
// closes connections that are idle.
const lifetime = process.env.TESTDB_LIFETIME ?? '20 minutes';

/** Hands out databases that are copies of the one that the URL names. */
export function createTestDatabasePooler(connectionUrl: string) {
  const urlOf = (database: string) => Object.assign(new URL(connectionUrl), { pathname: database });
  const template = new URL(connectionUrl).pathname.slice(1);
  const admin = createPool(urlOf('postgres').href, { maximumPoolSize: 2 });
  const call = async (query: ReturnType<typeof sql.unsafe>) => void await (await admin).query(query);

  return {
    getTestDatabase: async (label = ''): Promise<TestDatabase> => {
      const name = await (await admin).oneFirst(sql.type(z.object({ name: z.string() }))`
        SELECT testdb_clone(${template}, lifetime => ${lifetime}::interval, label => left(${label}, 100)) AS name`);
      const url = urlOf(name);
      return {
        destroy: () => call(sql.unsafe`SELECT testdb_drop(${name})`),
        getConnectionUri: () => url.href,
        name: () => name,
        keep: async () => {
          await call(sql.unsafe`SELECT testdb_keep(${name}, '2 days')`);
          return `psql "host=${url.hostname} port=${url.port || 5432} user=${url.username} dbname=${name}"`;
        },
        rewind: () => call(sql.unsafe`SELECT testdb_rewind(${name})`),
      };
    },
    end: async () => (await admin).end(),
  };
}
