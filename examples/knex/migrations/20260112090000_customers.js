exports.up = (knex) => knex.schema
  .createTable('customer', (table) => {
    table.increments();
    table.text('email').notNullable().unique();
  })
  .createTable('address', (table) => {
    table.increments();
    table.integer('customer_id').notNullable().references('customer.id');
    table.text('street').notNullable();
    table.text('city').notNullable();
  })
  .createTable('review', (table) => {
    table.integer('customer_id').notNullable().references('customer.id');
    table.integer('product_id').notNullable().references('product.id');
    table.smallint('stars').notNullable().checkBetween([1, 5]);
    table.primary(['customer_id', 'product_id']);
  });

exports.down = (knex) => ['review', 'address', 'customer'].reduce((schema, table) => schema.dropTable(table), knex.schema);
