// Makes the template, once for all workers: vitest runs this before it starts them. Copy it, and put your migrations in.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import pg from 'pg';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
  interface ProvidedContext { templateUrl: string }
}

// Where testdb is. The template, and what a test gets, are other databases on this server.
const adminUrl = process.env.ADMIN_URL ?? 'postgresql://postgres:postgres@localhost:5435/postgres';
const urlOf = (database: string) => Object.assign(new URL(adminUrl), { pathname: database }).href;

const connect = async (connectionString: string) => {
  const client = new pg.Client({ connectionString });
  await client.connect();
  return client;
};

export default async function setup(project: TestProject) {
  // It is named after what it is made from: after a change of a migration there is another one.
  const files = readdirSync('migrations').sort().map((file) => readFileSync(`migrations/${file}`, 'utf8'));
  const template = 'shop_' + createHash('sha256').update(files.join('\n')).digest('hex').slice(0, 12);

  // Two runs may start at the same time. It gets its name last, so that one that was interrupted is never taken for whole.
  const admin = await connect(adminUrl);
  await admin.query("SELECT pg_advisory_lock(hashtext('shop template'))");
  if ((await admin.query('SELECT FROM pg_database WHERE datname = $1', [template])).rowCount === 0) {
    await admin.query('DROP DATABASE IF EXISTS shop_building WITH (FORCE)');
    await admin.query('CREATE DATABASE shop_building');
    const building = await connect(urlOf('shop_building'));
    await building.query(files.join('\n'));
    await building.query('VACUUM (FREEZE, ANALYZE)');
    await building.end();
    await admin.query(`ALTER DATABASE shop_building RENAME TO ${template}`);
  }
  await admin.end();
  project.provide('templateUrl', urlOf(template));
}
