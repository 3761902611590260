// The frame that all rungs share, in a real browser: decoded from gzip, its policy kept, complete for
// everybody in light, dark and mobile, with the operator's name, logo and help.
//
// BASE_URL    where Rempart listens; /proof and below asks for proof of work, /blocked is refused, and
//             `page: { name: Example, logo_file: …, help: { fr: …, en: … } }` is configured

import assert from 'node:assert/strict';
import { base, fits, looks, run, shot, withPage } from './harness.mjs';
import { check } from './axe.mjs';

const at = (path) => new URL(path, base).href;
const stories = {};
for (const [name, options] of Object.entries(looks)) {
  stories[`proof of work: ${name}`] = () => withPage(options, async (page) => {
    // Never answered: the page stays to be looked at.
    await page.route('**/.rempart/challenge', () => {});
    const answer = await page.goto(at('/proof'));
    assert.equal(answer.status(), 403);
    assert.equal(answer.headers()['content-encoding'], 'gzip');
    await page.locator('h1').first().waitFor({ state: 'visible' });
    assert.equal(await page.locator('header bdi').innerText(), 'Example');
    const logo = page.locator('header img');
    assert.ok(await logo.evaluate((image) => image.complete && image.naturalWidth > 0), 'no logo');
    const help = await page.locator('footer p').first().innerText();
    assert.equal(help, name === 'fr' ? 'Écrivez à aide@example.com' : 'Write to help@example.com');
    await check(page);
    await fits(page);
    await shot(page, `page-${name}`);
  });
  stories[`refused: ${name}`] = () => withPage(options, async (page) => {
    const answer = await page.goto(at('/blocked'));
    assert.equal(answer.status(), 403);
    await check(page);
    await fits(page);
    await shot(page, `blocked-${name}`);
  });
}

stories['a logo runs no script, and nothing comes from elsewhere'] = () => withPage({}, async (page) => {
  const elsewhere = [];
  page.on('request', (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(base)) elsewhere.push(request.url());
  });
  await page.route('**/.rempart/challenge', () => {});
  await page.goto(at('/proof'));
  await page.locator('header img').waitFor();
  assert.equal(await page.evaluate(() => globalThis.ran), undefined);
  assert.deepEqual(elsewhere, []);
});

await run(stories);
