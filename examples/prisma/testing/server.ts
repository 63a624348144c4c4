// Where testdb is. The template, and what a test gets, are other databases on this server.
import pg from 'pg';

const adminUrl = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';

export const urlOf = (database: string) => Object.assign(new URL(adminUrl), { pathname: database }).href;

export async function open(database?: string) {
  const client = new pg.Client({ connectionString: database ? urlOf(database) : adminUrl });
  await client.connect();
  return client;
}
