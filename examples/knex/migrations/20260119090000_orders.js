exports.up = (knex) => knex.schema
  .createTable('warehouse', (table) => {
    table.increments();
    table.text('city').notNullable().unique();
  })
  .createTable('stock', (table) => {
    table.integer('warehouse_id').notNullable().references('warehouse.id');
    table.integer('product_id').notNullable().references('product.id');
    table.integer('amount').notNullable().checkBetween([0, 1000000]);
    table.primary(['warehouse_id', 'product_id']);
  })
  .createTable('purchase', (table) => {
    table.increments();
    table.integer('customer_id').notNullable().references('customer.id');
    table.timestamp('ordered_at').notNullable().defaultTo(knex.fn.now());
    table.index(['customer_id', 'ordered_at']);
  })
  .createTable('purchase_item', (table) => {
    table.integer('purchase_id').notNullable().references('purchase.id').onDelete('CASCADE');
    table.integer('product_id').notNullable().references('product.id');
    table.integer('amount').notNullable().checkPositive();
    table.primary(['purchase_id', 'product_id']);
  })
  .createTable('payment', (table) => {
    table.increments();
    table.integer('purchase_id').notNullable().references('purchase.id').onDelete('CASCADE');
    table.decimal('total', 10, 2).notNullable();
  })
  .createTable('shipment', (table) => {
    table.integer('purchase_id').primary().references('purchase.id').onDelete('CASCADE');
    table.integer('address_id').notNullable().references('address.id');
    table.timestamp('sent_at');
  });

exports.down = (knex) => ['shipment', 'payment', 'purchase_item', 'purchase', 'stock', 'warehouse']
  .reduce((schema, table) => schema.dropTable(table), knex.schema);
