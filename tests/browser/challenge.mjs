// A real browser meets the challenge: the page shows, solves itself, sets the cookie, and the page
// that was asked for opens. Also: no JavaScript is told so, and an API client gets no page.
//
// BASE_URL    where Rempart listens; every path asked for below must be challenged
// TEXT        a text that only the original page has (default: "original")

import assert from 'node:assert/strict';
import { base, run, shot, withPage } from './harness.mjs';

const text = process.env.TEXT ?? 'original';

// Opens a page, and holds the answer back until `look` has seen the challenge.
async function solve(page, path, look) {
  let release;
  const held = new Promise((resolve) => { release = resolve; });
  await page.route('**/.rempart/challenge', async (route) => { await held; await route.continue(); });
  const first = await page.goto(new URL(path, base).href);
  assert.equal(first.status(), 403);
  assert.equal(first.headers()['rempart-action'], 'challenge');
  assert.match(first.headers()['cache-control'], /no-store/);
  assert.equal(await page.locator('h1').innerText(), 'One moment, please');
  if (look) await look();
  release();
  await page.waitForFunction((text) => document.body.innerText.includes(text), text, { timeout: 60_000 });
}

await run({
  'a visitor waits and gets the page': () => withPage({}, async (page, context) => {
    await solve(page, '/some/page?a=1&b=2', () => shot(page, 'challenge-light'));
    assert.equal(new URL(page.url()).pathname + new URL(page.url()).search, '/some/page?a=1&b=2');
    const cookies = await context.cookies();
    const clearance = cookies.find((cookie) => cookie.name === (process.env.COOKIE ?? 'rempart_clearance'));
    assert.ok(clearance, 'no clearance cookie');
    assert.equal(clearance.httpOnly, true);
    assert.equal(clearance.sameSite, 'Lax');
    assert.equal(clearance.path, '/');
    assert.equal(clearance.secure, base.startsWith('https:'));
    const second = await page.goto(new URL('/another', base).href);
    assert.notEqual(second.headers()['rempart-action'], 'challenge', 'challenged again');
  }),

  'a fragment survives, in the dark too': () => withPage({ colorScheme: 'dark' }, async (page) => {
    await solve(page, '/page#part', () => shot(page, 'challenge-dark'));
    assert.equal(new URL(page.url()).hash, '#part');
  }),

  'it works without workers': () => withPage({}, async (page) => {
    await page.addInitScript(() => { delete globalThis.Worker; });
    await solve(page, '/page');
  }),

  'no JavaScript is told so': () => withPage({ javaScriptEnabled: false }, async (page) => {
    await page.goto(new URL('/page', base).href);
    assert.match(await page.locator('noscript').innerText(), /JavaScript is needed/);
    assert.equal(await page.locator('#work').isVisible(), false);
    await shot(page, 'challenge-noscript');
  }),

  'no cookies is told so': () => withPage({ viewport: { width: 375, height: 667 } }, async (page) => {
    await page.addInitScript(() => {
      Object.defineProperty(Navigator.prototype, 'cookieEnabled', { get: () => false });
    });
    await page.goto(new URL('/page', base).href);
    assert.match(await page.locator('#say').innerText(), /needs cookies/);
    await page.locator('#again').waitFor({ state: 'visible' });
    await shot(page, 'challenge-no-cookies');
  }),

  'a script gets data and no page': () => withPage({}, async (page, context) => {
    const answer = await context.request.get(new URL('/api', base).href);
    assert.equal(answer.status(), 403);
    assert.match(answer.headers()['content-type'], /^application\/problem\+json/);
    assert.equal((await answer.json()).challenge.kind, 'proof_of_work');
  }),
});
