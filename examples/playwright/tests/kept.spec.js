// A test that fails, to see what is left of it. It needs to be asked for: SHOW_FAILURE=1 npx playwright test kept
import { expect } from '@playwright/test';
import { test } from '../testing/test.js';

test.skip(!process.env.SHOW_FAILURE);

test('fails', async ({ page }) => {
  await page.goto('/');
  await page.getByRole('button', { name: 'Order' }).first().click();
  await expect(page.getByText('Order 1 of ada')).toHaveCount(0, { timeout: 100 });
});
