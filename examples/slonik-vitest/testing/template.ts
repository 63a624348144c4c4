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
  // What it is made from: after a change of a migration there is another one.
  const files = readdirSync('migrations').sort().map((file) => readFileSync(`migrations/${file}`, 'utf8'));
  const fingerprint = createHash('sha256').update(files.join('\n')).digest('hex');

  // Two runs may start at the same time: one makes it, and the other waits here. One that was interrupted leaves none.
  const admin = await connect(adminUrl);
  const { rows: [{ database, build }] } = await admin.query("SELECT * FROM testdb_template_begin('shop', $1)", [fingerprint]);
  if (build) {
    const building = await connect(urlOf(database));
    await building.query(files.join('\n'));
    await building.end();
    await admin.query('SELECT testdb_template_finish($1)', [database]);
  }
  await admin.end();
  project.provide('templateUrl', urlOf(database));
}
