// A real browser meets the silent rung: it goes on by itself, with and without JavaScript; one that
// keeps no cookies is told so, once, in its language. The pages are complete for everybody.
//
// BASE_URL    where Rempart listens; every path below asks for a silent clearance
// TEXT        a text that only the original page has (default: "original")

import assert from 'node:assert/strict';
import { base, run, shot, withPage } from './harness.mjs';
import { check } from './axe.mjs';

const text = process.env.TEXT ?? 'original';
const at = (path) => new URL(path, base).href;
const shown = (page) => page.waitForFunction(
  (text) => document.body.innerText.includes(text), text, { timeout: 30_000 });

// Forgets what was set before the browser would send it back.
const withoutCookies = (page, context) => page.route('**/*', async (route) => {
  await context.clearCookies();
  await route.continue();
});

// The page on the way, kept from going on: its `refresh` is taken away as it comes in. The browser asks
// for it itself, as clearances are for the TLS client that they were given to. Gives the answer, and
// `let`, which lets what comes next be.
async function held(page, path = '/page') {
  const debug = await page.context().newCDPSession(page);
  debug.on('Fetch.requestPaused', ({ requestId, responseStatusCode, responseHeaders }) => {
    const kept = responseHeaders.filter(({ name }) => name.toLowerCase() !== 'refresh');
    debug.send('Fetch.continueResponse', { requestId, responseCode: responseStatusCode, responseHeaders: kept });
  });
  await debug.send('Fetch.enable', { patterns: [{ urlPattern: '*/page*', requestStage: 'Response' }] });
  return { answer: await page.goto(at(path)), let: () => debug.send('Fetch.disable') };
}

const looks = {
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  mobile: { viewport: { width: 320, height: 568 }, isMobile: true, hasTouch: true },
  forced: { forcedColors: 'active' },
  fr: { locale: 'fr-CA' },
  ar: { locale: 'ar-EG', viewport: { width: 375, height: 667 } },
  ja: { locale: 'ja-JP', colorScheme: 'dark' },
};

const stories = {
  'a browser goes on by itself': () => withPage({}, async (page, context) => {
    await page.goto(at('/some/page?a=1&b=2'));
    await shown(page);
    assert.equal(page.url(), at('/some/page?a=1&b=2'));
    const cookies = await context.cookies();
    assert.ok(cookies.some((cookie) => cookie.httpOnly && cookie.sameSite === 'Lax'));
    const second = await page.goto(at('/another'));
    assert.equal(second.status(), 200, 'challenged again');
  }),

  'without JavaScript too': () => withPage({ javaScriptEnabled: false }, async (page) => {
    await page.goto(at('/some/page'));
    await page.locator(`text=${text}`).waitFor({ timeout: 30_000 });
    assert.equal(page.url(), at('/some/page'));
  }),

  'by keyboard alone, for the patient': () => withPage({}, async (page) => {
    const stopped = await held(page);
    await page.keyboard.press('Tab');
    const focused = page.locator(':focus');
    assert.equal(await focused.innerText(), 'Continue');
    assert.notEqual(await focused.evaluate((link) => getComputedStyle(link).outlineStyle), 'none');
    const box = await focused.boundingBox();
    assert.ok(box.height >= 24 && box.width >= 24, JSON.stringify(box));
    await stopped.let();
    await page.keyboard.press('Enter');
    await shown(page);
  }),

  'no cookies is told so, and nothing loops': () => withPage({ locale: 'fr-FR' }, async (page, context) => {
    await withoutCookies(page, context);
    let asked = 0;
    page.on('request', () => { asked += 1; });
    await page.goto(at('/page'));
    await page.waitForFunction(() => document.body.innerText.includes('autoriser les cookies'));
    await shot(page, 'silent-no-cookies-fr');
    await check(page);
    // The page, and the way back: whatever else was to come would have been asked for by now.
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 500))));
    assert.ok(asked <= 4, `${asked} requests`);
    const link = page.locator('main a');
    assert.equal(await link.getAttribute('href'), '/page');
    assert.equal(await page.locator('html').getAttribute('lang'), 'fr');
  }),

  'a bookmark of the way has a way on': () => withPage({ locale: 'fr-FR' }, async (page) => {
    page.removeAllListeners('console');
    const answer = await page.goto(at('/.rempart/challenge'));
    assert.equal(answer.status(), 405);
    assert.equal(await page.locator('html').getAttribute('lang'), 'fr');
    await check(page);
    await page.locator('main a').click();
    await shown(page);
    assert.equal(page.url(), at('/'));
  }),

  'an old or foreign link has a way on': () => withPage({ colorScheme: 'dark' }, async (page) => {
    await page.goto(at('/.rempart/challenge?t=AAAA'));
    assert.match(await page.locator('h1').innerText(), /go on from here/);
    await check(page);
    await shot(page, 'silent-lapsed-dark');
    await page.locator('main a').click();
    await shown(page);
  }),

  'a page at 400 % needs no scrolling sideways': () => withPage(
    { viewport: { width: 320, height: 256 }, locale: 'de' }, async (page) => {
      await held(page);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= 320, `${wide} px`);
    }),
};

for (const [name, options] of Object.entries(looks)) {
  stories[`complete for everybody: ${name}`] = () => withPage(options, async (page) => {
    const { answer } = await held(page);
    assert.equal(answer.status(), 403);
    await check(page);
    await shot(page, `silent-${name}`);
    const wide = await page.evaluate(() =>
      [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
    assert.ok(wide[0] <= wide[1], `${wide[0]} of ${wide[1]} px`);
    const language = (options.locale ?? 'en').split('-')[0];
    assert.equal(await page.locator('html').getAttribute('lang'), language);
    const id = await page.locator('footer code').innerText();
    assert.equal(id, answer.headers()['x-request-id']);
  });
}

await run(stories);
