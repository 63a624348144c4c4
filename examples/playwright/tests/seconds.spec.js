// How long a rewind takes, beside what is done without testdb: TRUNCATE of all tables, and the demo data again. That takes
// longer with each table, and brings back rows only.
import { readFileSync } from 'node:fs';
import { expect } from '@playwright/test';
import { call, open, test } from '../testing/test.js';

const rounds = 20;

test('seconds with a rewind, and with TRUNCATE', async ({ app, request }) => {
  const db = open(app.name);
  const { rows: [{ tables }] } = await db.query(
    "SELECT string_agg(format('%I', tablename), ', ') AS tables FROM pg_tables WHERE schemaname = 'public'");
  const demoData = readFileSync('migrations/004_demo_data.sql', 'utf8');
  const ways = {
    testdb_rewind: () => call('testdb_rewind($1)', app.name),
    'TRUNCATE and INSERT': () => db.query(`TRUNCATE ${tables} RESTART IDENTITY; ${demoData}`),
  };
  const seconds = {};

  for (const [way, reset] of Object.entries(ways)) {
    seconds[way] = 0;
    for (let i = 0; i < rounds; i++) {
      await request.post('/order/1', { form: { customer: 1, amount: 2 }, maxRedirects: 0 });
      const start = performance.now();
      await reset();
      seconds[way] += (performance.now() - start) / 1000;
    }
    expect(await (await request.get('/')).text()).toContain('kettle: 30.00, 5 in stock');
  }
  await db.end();
  console.log(`${rounds} resets, seconds: ${Object.entries(seconds).map(([way, time]) => `${way} ${time.toFixed(2)}`).join(', ')}`);
});
