// Starts the application: DATABASE_URL=postgresql://... PORT=3000 node src/server.js
import pg from 'pg';
import { createApp } from './app.js';

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, application_name: 'shop', max: 4, idleTimeoutMillis: 0 });
pool.on('error', (error) => console.error(error.message));

// All connections are open before the first request comes.
const clients = await Promise.all(Array.from({ length: 4 }, () => pool.connect()));
clients.forEach((client) => client.release());

const server = createApp(pool).listen(process.env.PORT ?? 3000, 'localhost', () =>
  console.log(`http://localhost:${server.address().port}`));
