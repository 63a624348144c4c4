// The application's connections: Drizzle over a pool of `pg`.
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';

export const connect = (connectionString: string) => drizzle(new pg.Pool({ connectionString }));
export type Db = ReturnType<typeof connect>;
