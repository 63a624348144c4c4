// The tables. `npx drizzle-kit generate` makes the next migration of what has changed here.
import { sql } from 'drizzle-orm';
import { check, index, integer, numeric, pgTable, primaryKey, serial, smallint, text, timestamp } from 'drizzle-orm/pg-core';

export const category = pgTable('category', {
  id: serial().primaryKey(),
  name: text().notNull().unique(),
});

export const supplier = pgTable('supplier', {
  id: serial().primaryKey(),
  name: text().notNull().unique(),
});

export const product = pgTable('product', {
  id: serial().primaryKey(),
  supplierId: integer('supplier_id').notNull().references(() => supplier.id),
  name: text().notNull().unique(),
  price: numeric({ precision: 10, scale: 2, mode: 'number' }).notNull(),
});

export const productCategory = pgTable('product_category', {
  productId: integer('product_id').notNull().references(() => product.id),
  categoryId: integer('category_id').notNull().references(() => category.id),
}, (table) => [primaryKey({ columns: [table.productId, table.categoryId] })]);

export const priceChange = pgTable('price_change', {
  id: serial().primaryKey(),
  productId: integer('product_id').notNull().references(() => product.id),
  price: numeric({ precision: 10, scale: 2, mode: 'number' }).notNull(),
  changedAt: timestamp('changed_at', { withTimezone: true }).notNull().defaultNow(),
});

export const customer = pgTable('customer', {
  id: serial().primaryKey(),
  email: text().notNull().unique(),
});

export const address = pgTable('address', {
  id: serial().primaryKey(),
  customerId: integer('customer_id').notNull().references(() => customer.id),
  street: text().notNull(),
  city: text().notNull(),
});

export const review = pgTable('review', {
  customerId: integer('customer_id').notNull().references(() => customer.id),
  productId: integer('product_id').notNull().references(() => product.id),
  stars: smallint().notNull(),
}, (table) => [
  primaryKey({ columns: [table.customerId, table.productId] }),
  check('review_stars_check', sql`${table.stars} BETWEEN 1 AND 5`),
]);

export const warehouse = pgTable('warehouse', {
  id: serial().primaryKey(),
  city: text().notNull().unique(),
});

export const stock = pgTable('stock', {
  warehouseId: integer('warehouse_id').notNull().references(() => warehouse.id),
  productId: integer('product_id').notNull().references(() => product.id),
  amount: integer().notNull(),
}, (table) => [
  primaryKey({ columns: [table.warehouseId, table.productId] }),
  check('stock_amount_check', sql`${table.amount} >= 0`),
]);

export const purchase = pgTable('purchase', {
  id: serial().primaryKey(),
  customerId: integer('customer_id').notNull().references(() => customer.id),
  orderedAt: timestamp('ordered_at', { withTimezone: true }).notNull().defaultNow(),
}, (table) => [index().on(table.customerId, table.orderedAt)]);

export const purchaseItem = pgTable('purchase_item', {
  purchaseId: integer('purchase_id').notNull().references(() => purchase.id, { onDelete: 'cascade' }),
  productId: integer('product_id').notNull().references(() => product.id),
  amount: integer().notNull(),
}, (table) => [primaryKey({ columns: [table.purchaseId, table.productId] })]);

export const payment = pgTable('payment', {
  id: serial().primaryKey(),
  purchaseId: integer('purchase_id').notNull().references(() => purchase.id, { onDelete: 'cascade' }),
  total: numeric({ precision: 10, scale: 2, mode: 'number' }).notNull(),
});

export const shipment = pgTable('shipment', {
  purchaseId: integer('purchase_id').primaryKey().references(() => purchase.id, { onDelete: 'cascade' }),
  addressId: integer('address_id').notNull().references(() => address.id),
  sentAt: timestamp('sent_at', { withTimezone: true }),
});
