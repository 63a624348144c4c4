exports.up = (knex) => knex.schema
  .createTable('category', (table) => {
    table.increments();
    table.text('name').notNullable().unique();
  })
  .createTable('supplier', (table) => {
    table.increments();
    table.text('name').notNullable().unique();
  })
  .createTable('product', (table) => {
    table.increments();
    table.integer('supplier_id').notNullable().references('supplier.id');
    table.text('name').notNullable().unique();
    table.decimal('price', 10, 2).notNullable().checkPositive();
  })
  .createTable('product_category', (table) => {
    table.integer('product_id').notNullable().references('product.id');
    table.integer('category_id').notNullable().references('category.id');
    table.primary(['product_id', 'category_id']);
  })
  .createTable('price_change', (table) => {
    table.increments();
    table.integer('product_id').notNullable().references('product.id');
    table.decimal('price', 10, 2).notNullable();
    table.timestamp('changed_at').notNullable().defaultTo(knex.fn.now());
  });

exports.down = (knex) => ['price_change', 'product_category', 'product', 'supplier', 'category']
  .reduce((schema, table) => schema.dropTable(table), knex.schema);
