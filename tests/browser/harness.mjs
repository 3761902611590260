// What the browser's stories share: a browser, a fresh context a story, pictures, and a report.
//
// BASE_URL    where Rempart listens
// BROWSER     default /usr/bin/chromium
// SCREENSHOTS a directory to leave pictures in (optional)
//
// Needs playwright-core. `run` exits with 0, or with 1 and a line on what went wrong.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

// Also found where the working directory has it.
export const load = createRequire(join(process.cwd(), 'package.json'));
const { chromium } = load('playwright-core');

export const base = process.env.BASE_URL;
assert.ok(base, 'BASE_URL is not set');
const shots = process.env.SCREENSHOTS;

export const browser = await chromium.launch({
  executablePath: process.env.BROWSER ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});

export async function shot(page, name) {
  if (shots) await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
}

// Presses Tab until the focus is on what the locator finds, and sees that the focus shows.
export async function tabTo(page, locator) {
  for (let presses = 0; presses < 20; presses += 1) {
    await page.keyboard.press('Tab');
    if (!await locator.evaluate((node) => node === document.activeElement)) continue;
    const outline = await locator.evaluate((node) => getComputedStyle(node).outlineStyle);
    assert.notEqual(outline, 'none', 'the focus does not show');
    return;
  }
  assert.fail(`${locator} is not reached by Tab`);
}

// How visitors see a page, as options of `withPage`.
export const looks = {
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  mobile: { viewport: { width: 375, height: 667 }, isMobile: true, hasTouch: true },
  fr: { locale: 'fr-FR' },
  ar: { locale: 'ar' },
};

// Nothing is wider than the screen.
export async function fits(page) {
  const [wide, screen] = await page.evaluate(() =>
    [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= screen, `${wide} of ${screen} px`);
}

// A story in a context of its own; what the console says of errors fails it, but for refused requests.
export async function withPage(options, story) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, ...options });
  const page = await context.newPage();
  const problems = [];
  page.on('console', (message) => {
    const refused = message.text().includes('status of 403');
    if (message.type() === 'error' && !refused) problems.push(message.text());
  });
  page.on('pageerror', (error) => problems.push(String(error)));
  try {
    await story(page, context);
    assert.deepEqual(problems, [], 'the console has errors');
  } finally {
    await context.close();
  }
}

// A browser that hangs fails its story, and not the patience of who waits for all of them.
const inTime = (story) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('took more than two minutes')), 120_000);
  });
  return Promise.race([story, late]).finally(() => clearTimeout(timer));
};

// Stories by name; ends the process.
export async function run(stories) {
  let failed = 0;
  for (const [name, story] of Object.entries(stories)) {
    const start = Date.now();
    try {
      await inTime(story());
      console.log(`ok   ${name} (${Date.now() - start} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name}: ${error.stack ?? error}`);
    }
  }
  await browser.close();
  process.exit(failed ? 1 : 0);
}
