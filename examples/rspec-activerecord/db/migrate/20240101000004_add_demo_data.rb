class AddDemoData < ActiveRecord::Migration[6.1]
  def up
    execute <<~SQL
      INSERT INTO suppliers (name) VALUES ('Mill & Sons');
      INSERT INTO categories (name) VALUES ('kitchen'), ('garden');
      INSERT INTO products (supplier_id, name, price) VALUES (1, 'kettle', 30.00), (1, 'teapot', 25.50), (1, 'rake', 12.00);
      INSERT INTO categories_products (product_id, category_id) VALUES (1, 1), (2, 1), (3, 2);
      INSERT INTO customers (email) VALUES ('ada@example.com'), ('bob@example.com');
      INSERT INTO addresses (customer_id, street, city) VALUES (1, '1 High Street', 'Leeds'), (2, '2 Low Road', 'York');
      INSERT INTO warehouses (city) VALUES ('Leeds');
      INSERT INTO stocks (warehouse_id, product_id, amount) VALUES (1, 1, 5), (1, 2, 5), (1, 3, 5);
    SQL
  end
end
