// For the command knex: DATABASE_URL=postgresql://... npx knex migrate:latest
module.exports = { client: 'pg', connection: process.env.DATABASE_URL };
