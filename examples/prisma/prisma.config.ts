import { defineConfig } from 'prisma/config';

export default defineConfig({
  schema: 'prisma/schema.prisma',
  migrations: { path: 'prisma/migrations' },
  // For `prisma migrate`; the application has its own connection.
  datasource: { url: process.env.DATABASE_URL ?? '' },
});
