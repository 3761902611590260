// A real browser without JavaScript meets the captcha: it is shown a picture, asks for a question in its
// place, is wrong once, and answers the next one, with the keyboard alone.
//
// The story answers questions by parsing them, as a bot would: it shows that the way leads through, not
// that it stops anybody.
//
// BASE_URL    where Rempart listens; every path asked for below must be challenged
// TEXT        a text that only the original page has (default: "original")

import assert from 'node:assert/strict';
import { base, fits, looks, run, shot, tabTo, withPage } from './harness.mjs';
import { check } from './axe.mjs';
import { solve } from './question.mjs';

const text = process.env.TEXT ?? 'original';
const url = (path) => new URL(path, base).href;

const off = { javaScriptEnabled: false };

// With scripts the browser tells where the focus is; the pages have none of their own.
const stories = {
  'a visitor without scripts gets on by a question': () => withPage(off, async (page, context) => {
    const first = await page.goto(url('/some/page?a=1&b=2'));
    assert.equal(first.status(), 403);
    assert.equal(first.headers()['rempart-action'], 'challenge');
    const image = page.getByRole('img', { name: /letters and digits/ });
    assert.equal(await image.count(), 1);
    await shot(page, 'captcha-picture');
    await page.getByRole('button', { name: 'Answer a question instead' }).click();
    await page.getByRole('button', { name: 'Continue' }).waitFor();
    await shot(page, 'captcha-question');
    await page.getByRole('textbox').fill('surely wrong');
    await page.getByRole('button', { name: 'Continue' }).click();
    const alert = page.getByRole('alert');
    await alert.waitFor();
    assert.match(await alert.innerText(), /not right/);
    await shot(page, 'captcha-wrong');
    await page.getByRole('textbox').fill(solve(await page.locator('label').innerText()));
    await page.getByRole('button', { name: 'Continue' }).click();
    await page.getByText(text).waitFor();
    assert.equal(new URL(page.url()).pathname + new URL(page.url()).search, '/some/page?a=1&b=2');
    assert.equal((await context.cookies()).length, 1);
    const again = await page.goto(url('/another'));
    assert.equal(again.headers()['rempart-action'], undefined, 'challenged again');
  }),

  'the keyboard is enough': () => withPage({}, async (page) => {
    await page.goto(url('/page'));
    const focused = () => page.evaluate(() => document.activeElement.id);
    assert.equal(await focused(), 'answer');
    await tabTo(page, page.getByRole('button', { name: 'Answer a question instead' }));
    await page.keyboard.press('Enter');
    await page.locator('label span').waitFor();
    assert.equal(await focused(), 'answer');
    await page.keyboard.type(solve(await page.locator('label').innerText()));
    await page.keyboard.press('Enter');
    await page.getByText(text).waitFor();
  }),

  'a screen reader is told all of it': () => withPage({}, async (page) => {
    await page.goto(url('/page'));
    assert.equal(await page.getByRole('heading', { level: 1 }).count(), 1);
    const field = page.getByRole('textbox', { name: 'Letters and digits of the picture' });
    assert.equal(await field.count(), 1);
    assert.match(await page.locator('#how').innerText(), /six letters and digits/);
    assert.equal(await field.getAttribute('aria-describedby'), 'how');
    await field.fill('wrong');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').waitFor();
    assert.equal(await field.getAttribute('aria-invalid'), 'true');
    assert.equal(await field.getAttribute('aria-describedby'), 'notice how');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'answer');
  }),

  'a very small screen in French and in the dark': () => withPage(
    { viewport: { width: 320, height: 640 }, locale: 'fr-FR', colorScheme: 'dark' },
    async (page) => {
      await page.goto(url('/page'));
      assert.equal(await page.locator('html').getAttribute('lang'), 'fr');
      assert.match(await page.locator('h1').innerText(), /vous êtes une personne/);
      await fits(page);
      await shot(page, 'captcha-small-french-dark');
      await page.getByRole('button', { name: 'Une autre image' }).click();
      await page.getByRole('button', { name: 'Continuer' }).waitFor();
    }),
};

for (const [name, options] of Object.entries(looks)) {
  stories[`complete for everybody: ${name}`] = () => withPage(options, async (page) => {
    await page.goto(url('/page'));
    for (const kind of ['picture', 'question']) {
      await check(page);
      await fits(page);
      await shot(page, `captcha-${kind}-${name}`);
      if (kind === 'picture') await page.locator('button[value=question]').click();
      await page.locator('label span').waitFor();
    }
    await page.locator('#answer').fill('surely wrong');
    await page.keyboard.press('Enter');
    await page.getByRole('alert').waitFor();
    await check(page);
    await fits(page);
    await shot(page, `captcha-wrong-${name}`);
  });
}

// The last one: nobody of this address gets a captcha after it.
stories['who guesses on is told to wait'] = () => withPage(
  { locale: 'fr-FR', viewport: { width: 375, height: 667 } }, async (page) => {
    page.removeAllListeners('console'); // which says 429
    let answer = await page.goto(url('/page?a=1'));
    for (let guesses = 0; answer.status() === 403 && guesses < 20; guesses += 1) {
      const next = page.waitForResponse('**/.rempart/challenge');
      await page.locator('#answer').fill('sans doute faux');
      await page.keyboard.press('Enter');
      answer = await next;
      await page.locator('h1').waitFor();
      if (answer.status() === 403) await page.getByRole('alert').waitFor();
    }
    answer = await page.goto(url('/page?a=1'));
    assert.equal(answer.status(), 429);
    assert.ok(Number(answer.headers()['retry-after']) > 0);
    assert.match(await page.locator('main').innerText(), /Temps d’attente\s:\s\d+\s(s|min)/);
    assert.equal(await page.locator('main a').getAttribute('href'), '/page?a=1');
    await check(page);
    await fits(page);
    await tabTo(page, page.locator('main a'));
    await shot(page, 'captcha-wait-fr');
  });

await run(stories);
