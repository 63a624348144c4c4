// A new database for each test, and with it a new application: for tests of its start, and of what it keeps in memory.
import { expect } from '@playwright/test';
import { test } from '../testing/test.js';

test.use({ fresh: true });

for (const button of ['Order', 'Review', 'Register', 'Close down']) {
  test(`the first visitor clicks on ${button}`, async ({ page }) => {
    await page.goto(button === 'Close down' ? '/keeper' : '/');
    await expect(page.getByText('Visit 1')).toBeVisible();
    await page.getByRole('button', { name: button }).first().click();
    await expect(page.getByText('Visit 2')).toBeVisible();
  });
}
