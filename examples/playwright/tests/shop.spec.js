// Ten tests that write. Each finds the shop as the migrations have made it.
import { expect } from '@playwright/test';
import { test } from '../testing/test.js';

const product = (page, name) => page.getByRole('list', { name: 'Products' }).getByRole('listitem').filter({ hasText: name });
const orders = (page) => page.getByRole('list', { name: 'Orders' }).getByRole('listitem');

const order = async (page, name, amount = 1) => {
  await product(page, name).getByLabel('Amount').fill(String(amount));
  await product(page, name).getByRole('button', { name: 'Order' }).click();
};

test.beforeEach(async ({ page }) => {
  await page.goto('/');
  await expect(page.getByRole('heading')).toHaveText('Shop');
  // Nothing of what the other tests have done.
  await expect(orders(page)).toHaveCount(0);
  await expect(product(page, 'in stock')).toHaveText([/^kettle: 30.00, 5 in stock\s/, /^teapot: 25.50, 5/, /^rake: 12.00, 5/]);
  await expect(page.locator('select').first().locator('option')).toHaveText(['ada@example.com', 'bob@example.com']);
});

test('a customer registers', async ({ page }) => {
  await page.getByLabel('Email').fill('eve@example.com');
  await page.getByRole('button', { name: 'Register' }).click();
  await product(page, 'rake').getByLabel('Customer').first().selectOption('eve@example.com');
  await order(page, 'rake');
  await expect(orders(page)).toHaveText([/Order 1 of eve@example.com/]);
});

test('an order takes from the stock', async ({ page }) => {
  await order(page, 'kettle', 2);
  await expect(product(page, 'kettle')).toContainText('3 in stock');
  await expect(orders(page)).toHaveText([/^Order 1 of ada@example.com/]);
});

test('two orders are numbered 1 and 2', async ({ page }) => {
  await order(page, 'kettle');
  await order(page, 'rake');
  await expect(orders(page)).toHaveText([/^Order 1 /, /^Order 2 /]);
});

test('an order is paid', async ({ page }) => {
  await order(page, 'teapot', 3);
  await page.getByRole('button', { name: 'Pay' }).click();
  await expect(orders(page)).toHaveText(['Order 1 of ada@example.com, 76.50 paid']);
});

test('an order is cancelled', async ({ page }) => {
  await order(page, 'rake', 5);
  await expect(product(page, 'rake')).toContainText('0 in stock');
  await page.getByRole('button', { name: 'Cancel' }).click();
  await expect(product(page, 'rake')).toContainText('5 in stock');
});

test('an order of more than there is', async ({ page }) => {
  await order(page, 'kettle', 3);
  await order(page, 'kettle', 3);
  await expect(page.getByRole('alert')).toHaveText('Out of stock');
  await page.goto('/');
  await expect(orders(page)).toHaveText([/Order 1 /]);
});

test('a review', async ({ page }) => {
  await product(page, 'teapot').getByLabel('Stars').fill('4');
  await product(page, 'teapot').getByRole('button', { name: 'Review' }).click();
  await expect(product(page, 'teapot')).toContainText('4.0 stars');
});

test('a new price', async ({ page }) => {
  await page.goto('/keeper');
  await product(page, 'rake').getByLabel('Price').fill('9.99');
  await product(page, 'rake').getByRole('button', { name: 'Change' }).click();
  await page.goto('/');
  await expect(product(page, 'rake')).toContainText('9.99');
});

test('a paid order is sent', async ({ page }) => {
  await order(page, 'kettle');
  await page.getByRole('button', { name: 'Pay' }).click();
  await page.goto('/keeper');
  await page.getByRole('button', { name: 'Send' }).click();
  await page.goto('/');
  await expect(orders(page)).toHaveText(['Order 1 of ada@example.com, 30.00 paid, sent']);
});

test('the shop closes down', async ({ page }) => {
  await page.goto('/keeper');
  await page.getByRole('button', { name: 'Close down' }).click();
  await page.goto('/');
  await expect(product(page, 'in stock')).toHaveCount(0);
});
