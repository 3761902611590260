// A real browser meets a third party's widget, whose script a local server plays: it opens the page;
// and where it can't, there is another way.
//
// BASE_URL  where Rempart listens; every path asked for below must be challenged
// PROVIDER  as in the configuration

import assert from 'node:assert/strict';
import { base, fits, run, shot, tabTo, withPage } from './harness.mjs';
import { check, checkStill } from './axe.mjs';

const provider = process.env.PROVIDER ?? 'turnstile';
const french = { locale: 'fr-FR', viewport: { width: 375, height: 667 } };
const open = (page, path) => page.goto(new URL(path, base).href);
const other = (page) => page.locator('button[name=instead][value=image]:visible');

// What everybody needs of each page.
async function complete(page, name) {
  await check(page);
  await fits(page);
  await shot(page, `third-party-${name}`);
}

const stories = {
  'the widget opens the page': () => withPage({}, async (page, context) => {
    await open(page, '/some/page?a=1');
    if (provider !== 'recaptcha_v3') {
      // By keyboard alone.
      await page.locator('#human').waitFor();
      await complete(page, provider);
      await page.locator('#human').focus();
      await page.keyboard.press('Space');
    }
    await page.getByText('original').waitFor({ timeout: 30_000 });
    assert.equal(new URL(page.url()).pathname + new URL(page.url()).search, '/some/page?a=1');
    const cookies = await context.cookies();
    assert.ok(cookies.some((cookie) => cookie.name === 'rempart-clearance'), 'no clearance');
  }),
};

if (provider === 'turnstile') {
  Object.assign(stories, {
    'a blocked script leaves another way': () => withPage(french, async (page) => {
      page.removeAllListeners('console');
      await page.route('**/api.js*', (route) => route.abort());
      await open(page, '/page');
      await other(page).waitFor({ timeout: 30_000 });
      assert.match(await page.locator('#say').innerText(), /autre chemin/);
      assert.equal(await page.locator('#go').isDisabled(), true);
      await complete(page, 'blocked');
    }),

    'a silent script leaves another way': () => withPage({ colorScheme: 'dark' }, async (page) => {
      await page.route('**/api.js*', (route) => route.fulfill({ contentType: 'text/javascript', body: '' }));
      await open(page, '/page');
      await other(page).waitFor({ timeout: 30_000 });
      await complete(page, 'silent-dark');
      await tabTo(page, other(page));
      await page.keyboard.press('Enter');
      await page.locator('#picture').waitFor();
    }),

    'no JavaScript leaves another way': () => withPage({ javaScriptEnabled: false }, async (page) => {
      await open(page, '/page');
      await other(page).waitFor({ timeout: 30_000 });
      assert.equal(await page.locator('#third').isVisible(), false);
      await checkStill(page, {});
      await shot(page, 'third-party-noscript');
    }),

    'no cookies is told so': () => withPage({}, async (page) => {
      await page.addInitScript(() => {
        Object.defineProperty(Navigator.prototype, 'cookieEnabled', { get: () => false });
      });
      await open(page, '/page');
      assert.match(await page.locator('#say').innerText(), /needs cookies/);
      await complete(page, 'no-cookies');
    }),
  });
}

await run(stories);
