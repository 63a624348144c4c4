exports.seed = async (knex) => {
  await knex('supplier').insert({ name: 'Mill & Sons' });
  await knex('category').insert([{ name: 'kitchen' }, { name: 'garden' }]);
  await knex('product').insert([
    { supplier_id: 1, name: 'kettle', price: 30 },
    { supplier_id: 1, name: 'teapot', price: 25.5 },
    { supplier_id: 1, name: 'rake', price: 12 },
  ]);
  await knex('product_category').insert([[1, 1], [2, 1], [3, 2]].map(([product_id, category_id]) => ({ product_id, category_id })));
  await knex('customer').insert([{ email: 'ada@example.com' }, { email: 'bob@example.com' }]);
  await knex('address').insert([
    { customer_id: 1, street: '1 High Street', city: 'Leeds' },
    { customer_id: 2, street: '2 Low Road', city: 'York' },
  ]);
  await knex('warehouse').insert({ city: 'Leeds' });
  await knex('stock').insert([1, 2, 3].map((product_id) => ({ warehouse_id: 1, product_id, amount: 5 })));
};
