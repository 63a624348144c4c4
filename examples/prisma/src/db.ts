// The application's connection: a client of Prisma with a pool of `pg`.
import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from './generated/client';

export type Db = PrismaClient;

export const connect = (connectionString: string) => new PrismaClient({
  adapter: new PrismaPg({ connectionString }),
  transactionOptions: { maxWait: 10_000, timeout: 20_000 },
});
