// Makes the template, once for all workers: vitest runs this before it starts them. Copy it, and put your seed in.
import { createHash } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import type { TestProject } from 'vitest/node';
import { seed } from '../prisma/seed';
import { connect } from '../src/db';
import { open, urlOf } from './server';

declare module 'vitest' {
  interface ProvidedContext { template: string }
}

// What the template is made from: after a change of it there is another one.
const folders = readdirSync('prisma/migrations', { withFileTypes: true }).filter((entry) => entry.isDirectory());
const migrations = folders.map(({ name }) => `prisma/migrations/${name}/migration.sql`).sort();
const read = (file: string) => readFileSync(file, 'utf8');
const fingerprint = createHash('sha256').update([...migrations, 'prisma/seed.ts'].map(read).join('\n')).digest('hex');

export default async function setup(project: TestProject) {
  // Of the runs that start together one makes it, and the others wait here.
  const admin = await open();
  const { rows: [{ database, build }] } = await admin.query("SELECT * FROM testdb_template_begin('shop', $1)", [fingerprint]);
  if (build) {
    // As `prisma migrate deploy` does it, but without a process of its own and the engine that this downloads.
    const building = await open(database);
    for (const file of migrations) await building.query(read(file));
    await building.end();
    const db = connect(urlOf(database));
    await seed(db);
    await db.$disconnect();
    await admin.query('SELECT testdb_template_finish($1)', [database]);
  }
  await admin.end();
  project.provide('template', database);
}
