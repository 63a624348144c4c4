INSERT INTO supplier (name) VALUES ('Mill & Sons');
INSERT INTO category (name) VALUES ('kitchen'), ('garden');
INSERT INTO product (supplier_id, name, price) VALUES (1, 'kettle', 30.00), (1, 'teapot', 25.50), (1, 'rake', 12.00);
INSERT INTO product_category VALUES (1, 1), (2, 1), (3, 2);
INSERT INTO customer (email) VALUES ('ada@example.com'), ('bob@example.com');
INSERT INTO address (customer_id, street, city) VALUES (1, '1 High Street', 'Leeds'), (2, '2 Low Road', 'York');
INSERT INTO warehouse (city) VALUES ('Leeds');
INSERT INTO stock VALUES (1, 1, 5), (1, 2, 5), (1, 3, 5);
