// node-postgres: a pool of 8 under load. With UNNAMED=1 without named statements, for pgbouncer in transaction mode.
'use strict'
const { Pool, Client } = require('pg')
const named = process.env.UNNAMED ? (name, text, values) => ({ text, values }) : (name, text, values) => ({ name, text, values })
const rewinds = 100
let life = 0, requests = 0, stop = false
const wrong = []

// By load: the life in which its request began. Rows of an older one than all of these must be gone after a rewind.
const begun = []

async function request(pool, mine) {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    const { rows: [{ id }] } = await client.query(named('add', 'INSERT INTO item (life, name) VALUES ($1, $2) RETURNING id', [mine, 'new']))
    const { rows: [row] } = await client.query(named('get', 'SELECT life, mood FROM item WHERE id = $1', [id]))
    if (!row || row.life !== mine || row.mood !== 'good') wrong.push(`own row: ${JSON.stringify(row)}`)
    await client.query('COMMIT')
  } finally {
    client.release()
  }
}

async function load(pool, number) {
  while (!stop) {
    begun[number] = life
    try { await request(pool, begun[number]); requests++ } catch (e) { wrong.push(`request: ${e.message}`) }
  }
}

async function main() {
  const pool = new Pool({ max: 8 })
  const admin = new Client({ port: process.env.ADMIN_PORT, database: 'postgres' })
  await admin.connect()
  const loads = Array.from({ length: 8 }, (_, number) => load(pool, number))
  for (let i = 1; i <= rewinds; i++) {
    await new Promise(resolve => setTimeout(resolve, 10))
    if (i % 10 === 0) await pool.query('ALTER TABLE item ADD COLUMN IF NOT EXISTS extra int DEFAULT 7')
    const oldest = Math.min(...begun)
    await admin.query('SELECT testdb_rewind($1)', [process.env.PGDATABASE])
    life = i
    const { rows: [n] } = await pool.query(named('count',
      'SELECT count(*) FILTER (WHERE life = -1)::int AS kept, count(*) FILTER (WHERE life BETWEEN 0 AND $1 - 1)::int AS old FROM item', [oldest]))
    if (n.kept !== 1000 || n.old !== 0) wrong.push(`after rewind ${i}: ${JSON.stringify(n)}`)
  }
  stop = true
  await Promise.all(loads)
  await pool.end()
  await admin.end()
  console.log(`${rewinds} rewinds, ${requests} requests, ${wrong.length} wrong`, wrong.slice(0, 5))
  process.exit(wrong.length || requests < rewinds ? 1 : 0)
}
main()
