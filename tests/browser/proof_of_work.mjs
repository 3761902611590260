// A real browser meets the proof of work: the page shows, solves itself by the fastest means there is,
// sets the cookie, and the page that was asked for opens. Also: what happens where something is missing.
// Prints how long solving took, by the way it was done.
//
// BASE_URL    where Rempart listens; every path asked for below must be challenged
// TEXT        a text that only the original page has (default: "original")

import assert from 'node:assert/strict';
import { base, fits, run, shot, tabTo, withPage } from './harness.mjs';
import { check, checkStill } from './axe.mjs';

const text = process.env.TEXT ?? 'original';
const url = (path) => new URL(path, base).href;
const arrived = (page) => page.waitForFunction(
  (text) => document.body?.innerText.includes(text), text, { timeout: 60_000 });

// Opens a page, and holds the answer back until `look` has seen the challenge. Says which way it was
// solved.
async function solve(page, path, { look, title = 'One moment, please', way } = {}) {
  let release;
  const held = new Promise((resolve) => { release = resolve; });
  await page.route('**/.rempart/challenge', async (route) => { await held; await route.continue(); });
  const first = await page.goto(url(path));
  assert.equal(first.status(), 403);
  assert.equal(first.headers()['rempart-action'], 'challenge');
  assert.match(first.headers()['cache-control'], /no-store/);
  assert.equal(await page.locator('h1').innerText(), title);
  await page.waitForFunction(() => document.getElementById('challenge').dataset.took, null, { timeout: 60_000 });
  const { took, path: by } = await page.evaluate(() => ({ ...document.getElementById('challenge').dataset }));
  console.log(`solve ${by}: ${took} ms`);
  assert.equal(by, way ?? 'wasm');
  assert.equal(await page.locator('#bar').evaluate((bar) => bar.value), 1);
  if (look) await look();
  release();
  await arrived(page);
}

// Nothing but these scripts differs from a usual visit.
const without = (name, way, script) => ({
  [name]: () => withPage({}, async (page) => {
    await page.addInitScript(script);
    await solve(page, '/page', { way });
  }),
});

// What everybody needs of each page.
async function complete(page, name) {
  await check(page);
  await fits(page);
  await shot(page, `proof-of-work-${name}`);
}

await run({
  'a visitor waits and gets the page': () => withPage({}, async (page, context) => {
    await solve(page, '/some/page?a=1&b=2', { look: () => complete(page, 'light') });
    assert.equal(new URL(page.url()).pathname + new URL(page.url()).search, '/some/page?a=1&b=2');
    const cookies = await context.cookies();
    const clearance = cookies.find((cookie) => cookie.name === (process.env.COOKIE ?? 'rempart_clearance'));
    assert.ok(clearance, 'no clearance cookie');
    assert.equal(clearance.httpOnly, true);
    assert.equal(clearance.sameSite, 'Lax');
    assert.equal(clearance.path, '/');
    assert.equal(clearance.secure, base.startsWith('https:'));
    const second = await page.goto(url('/another'));
    assert.notEqual(second.headers()['rempart-action'], 'challenge', 'challenged again');
    // Back is the page, not the puzzle.
    await page.goBack();
    await arrived(page);
  }),

  'a fragment survives, in the dark too': () => withPage({ colorScheme: 'dark' }, async (page) => {
    await solve(page, '/page#part', { look: () => complete(page, 'dark') });
    assert.equal(new URL(page.url()).hash, '#part');
  }),

  'a telephone, in French': () => withPage(
    { viewport: { width: 375, height: 667 }, isMobile: true, hasTouch: true, locale: 'fr-FR', reducedMotion: 'reduce' },
    async (page) => {
      await solve(page, '/page', {
        title: 'Un instant, s’il vous plaît',
        look: async () => {
          assert.equal(await page.getAttribute('html', 'lang'), 'fr');
          await complete(page, 'mobile-fr');
        },
      });
    }),

  ...without('JavaScript does where there is no WebAssembly', 'js', () => {
    const Usual = globalThis.Blob;
    globalThis.Blob = function (parts, options) {
      return new Usual(['delete self.WebAssembly;', ...parts], options);
    };
  }),
  ...without('no workers', 'wasm, no worker', () => { delete globalThis.Worker; }),
  ...without('no workers and no WebAssembly', 'js, no worker', () => {
    delete globalThis.Worker;
    delete globalThis.WebAssembly;
  }),
  ...without('workers that never run', 'wasm, no worker', () => {
    globalThis.Worker = class { postMessage() { } terminate() { } };
  }),
  ...without('clocks that are coarse', 'wasm, no worker', () => {
    delete globalThis.Worker;
    const now = Date.now;
    Date.now = () => Math.floor(now() / 100 + Math.random()) * 100;
  }),

  'it goes on in the background': () => withPage({}, async (page, context) => {
    const other = await context.newPage();
    await page.goto(url('/page'), { waitUntil: 'commit' });
    await other.bringToFront();
    await arrived(page);
  }),

  'no JavaScript is offered something else': () => withPage({ javaScriptEnabled: false }, async (page) => {
    await page.goto(url('/page'));
    assert.match(await page.locator('noscript').innerText(), /JavaScript/);
    assert.equal(await page.locator('#work').isVisible(), false);
    for (const way of ['image', 'question']) {
      assert.ok(await page.locator(`button[name=instead][value=${way}]`).isVisible(), way);
    }
    await checkStill(page, {});
    await shot(page, 'proof-of-work-noscript');
  }),

  'who fails may try something else, by keyboard alone': () => withPage({}, async (page) => {
    let answers = 0;
    await page.route('**/.rempart/challenge', (route) => {
      answers += 1;
      return route.fulfill({ status: 403, body: '{}' });
    });
    await page.goto(url('/page'));
    await page.locator('#again').waitFor({ state: 'visible', timeout: 60_000 });
    assert.equal(answers, 3, 'it tries three times');
    assert.equal(await page.locator('[role=status]').innerText(), 'The check did not succeed. Please try again in a moment.');
    await complete(page, 'failed');
    await tabTo(page, page.locator('#again'));
    await tabTo(page, page.locator('button[value=image]'));
    await tabTo(page, page.locator('button[value=question]'));
    await page.unroute('**/.rempart/challenge');
    const posted = page.waitForRequest('**/.rempart/challenge');
    // The page goes away under the key, which the browser does not always answer for then.
    page.keyboard.press('Enter').catch(() => {});
    const form = new URLSearchParams((await posted).postData());
    assert.equal(form.get('instead'), 'question');
    assert.ok(form.get('token').length > 100);
  }),

  'no cookies is told so': () => withPage({ viewport: { width: 375, height: 667 } }, async (page) => {
    await page.addInitScript(() => {
      Object.defineProperty(Navigator.prototype, 'cookieEnabled', { get: () => false });
    });
    let requests = 0;
    page.on('request', () => { requests += 1; });
    await page.goto(url('/page'));
    assert.match(await page.locator('#say').innerText(), /needs cookies/);
    await page.locator('#again').waitFor({ state: 'visible' });
    assert.equal(await page.locator('#instead').isVisible(), false, 'that needs cookies too');
    await complete(page, 'no-cookies');
    await page.waitForTimeout(500);
    assert.equal(requests, 1, 'it goes on asking');
  }),

  'cookies that are lost make no loop': () => withPage({}, async (page) => {
    let pages = 0;
    page.on('request', (request) => { pages += request.isNavigationRequest(); });
    await page.route('**/.rempart/challenge', (route) => route.fulfill({ status: 204 }));
    await page.goto(url('/page'));
    await page.waitForFunction(() => document.getElementById('say')?.innerText.includes('keeps coming back'), null, { timeout: 60_000 });
    await page.waitForTimeout(500);
    assert.equal(pages, 6);
    await page.locator('button[value=image]').waitFor({ state: 'visible' });
  }),

  'a request that was kept is sent again': () => withPage({}, async (page) => {
    await page.addInitScript(() => addEventListener('DOMContentLoaded', () => {
      if (!document.getElementById('challenge')) return;
      const form = document.createElement('form');
      form.id = 'replay';
      form.action = '/kept';
      document.body.append(form);
    }));
    await page.goto(url('/page'));
    await page.waitForURL('**/kept?', { timeout: 60_000 });
    await arrived(page);
  }),

  'a script gets data and no page': () => withPage({}, async (page, context) => {
    const answer = await context.request.get(url('/api'));
    assert.equal(answer.status(), 403);
    assert.match(answer.headers()['content-type'], /^application\/problem\+json/);
    assert.equal((await answer.json()).challenge.kind, 'proof_of_work');
  }),
});
