// A real browser posts a form, is challenged, and gets the page that it posted to.
//
// BASE_URL    where Rempart listens: `/form?to=URL` has a form that posts to `URL/orders`, which is
//             challenged and says what was posted
//             (`/orders?away=URL` leads on to `URL/form?arrived` instead)
// OTHER_URL   the same under the name of another site

import assert from 'node:assert/strict';
import { base, run, shot, withPage } from './harness.mjs';
import { solve } from './question.mjs';

const other = process.env.OTHER_URL;
const file = Buffer.from(Array.from({ length: 5000 }, (_, at) => at * 7 % 256));

// Sends the form; what the application says of it.
async function send(page, enctype, from = base) {
  await page.goto(new URL(`/form?to=${from === base ? '' : base}`, from).href);
  await page.locator('form').evaluate((form, enctype) => { form.enctype = enctype; }, enctype);
  if (enctype === 'multipart/form-data') {
    await page.locator('input[type=file]').setInputFiles({ name: 'f.bin', mimeType: 'application/x-test', buffer: file });
  }
  await page.locator('form button').click();
  await page.locator('#body').waitFor({ state: 'attached', timeout: 30_000 });
  const said = (id) => page.locator(id).innerText();
  return {
    method: await said('#method'),
    kind: await said('#kind'),
    body: Buffer.from(await page.locator('#body').textContent(), 'hex'),
  };
}

function story(enctype, check) {
  return () => withPage({}, async (page, context) => {
    const challenged = [];
    page.on('response', (response) => {
      if (response.headers()['rempart-action'] === 'challenge') challenged.push(response.url());
    });
    const first = await send(page, enctype);
    assert.equal(challenged.length, 1, 'challenged once');
    assert.equal(new URL(page.url()).pathname + new URL(page.url()).search, '/orders?new=1');
    assert.equal(first.method, 'POST');
    check(first);
    const mark = (await context.cookies()).find((cookie) => cookie.name === 'rempart-clearance-replay');
    assert.equal(mark.sameSite, 'Strict');
    assert.equal(mark.httpOnly, true);
    // Without a challenge it is the same, but for a multipart form's boundary.
    const second = await send(page, enctype);
    assert.equal(challenged.length, 1, 'challenged again');
    assert.equal(second.kind.split(';')[0], first.kind.split(';')[0]);
    const bare = ({ kind, body }) => body.toString('latin1').replaceAll(kind.split('boundary=')[1] ?? '\0', 'X');
    assert.equal(bare(first), bare(second));
  });
}

const off = { javaScriptEnabled: false };

// Takes the question in place of what the page asks for, and answers it.
async function answer(page) {
  await page.locator('#instead button[value=question]').click();
  const asked = page.locator('label[for=answer]');
  await asked.waitFor({ timeout: 30_000 });
  await page.getByRole('textbox').fill(solve(await asked.innerText()));
  await page.locator('#go').click();
}

// Answers arrive without the cookies that they set.
const withoutCookies = (page, context) => page.route('**/*', async (route) => {
  const answer = await route.fetch({ maxRedirects: 0 });
  const headers = { ...answer.headers() };
  // The body comes decoded.
  for (const name of ['set-cookie', 'content-encoding', 'content-length']) delete headers[name];
  await context.clearCookies();
  await route.fulfill({ response: answer, headers });
});

await run({
  'without JavaScript it arrives as it was posted': () => withPage(off, async (page) => {
    await page.goto(new URL('/form?to=', base).href);
    await page.locator('form button').click();
    await answer(page);
    await page.locator('button[form=replay]').click();
    await page.locator('#body').waitFor({ state: 'attached', timeout: 30_000 });
    assert.equal(await page.locator('#method').innerText(), 'POST');
    assert.equal(await page.locator('#kind').innerText(), 'application/x-www-form-urlencoded');
    const body = Buffer.from(await page.locator('#body').textContent(), 'hex');
    assert.equal(body.toString(), 'text=a+b%26%C3%A9%22&file=');
    assert.equal(new URL(page.url()).pathname, '/orders');
  }),

  'the application may lead on to another site': () => withPage({}, async (page) => {
    await page.goto(new URL('/form?to=', base).href);
    await page.locator('form').evaluate((form, other) => { form.action = `/orders?away=${other}`; }, other);
    await page.locator('form button').click();
    await page.waitForURL(new URL('/form?arrived', other).href, { timeout: 30_000 });
  }),

  'no cookies is told so after a captcha, and nothing loops': () => withPage(off, async (page, context) => {
    await withoutCookies(page, context);
    await page.goto(new URL('/orders?page=2', base).href);
    await answer(page);
    await page.getByText('Please allow cookies').first().waitFor({ timeout: 30_000 });
    assert.equal(await page.locator('main a').getAttribute('href'), '/orders?page=2');
    await shot(page, 'replay-no-cookies');
  }),

  'nor does it after a form that was posted': () => withPage(off, async (page, context) => {
    await withoutCookies(page, context);
    await page.goto(new URL('/form?to=', base).href);
    await page.locator('form button').click();
    await answer(page);
    await page.locator('button[form=replay]').click();
    await page.getByText('Please allow cookies').first().waitFor({ timeout: 30_000 });
    assert.equal(await page.locator('main a').getAttribute('href'), '/orders?new=1');
  }),

  'urlencoded': story('application/x-www-form-urlencoded', ({ kind, body }) => {
    assert.equal(kind, 'application/x-www-form-urlencoded');
    assert.equal(body.toString(), 'text=a+b%26%C3%A9%22&file=');
  }),

  'multipart with a file': story('multipart/form-data', ({ kind, body }) => {
    const boundary = kind.match(/^multipart\/form-data; boundary=(.+)$/)[1];
    assert.ok(body.includes(`--${boundary}\r\n`) && body.includes(`--${boundary}--\r\n`));
    assert.ok(body.includes(file), 'the file is not whole');
    assert.ok(body.includes('a b&é"'));
  }),

  'text': story('text/plain', ({ kind, body }) => {
    assert.equal(kind, 'text/plain');
    assert.equal(body.toString(), 'text=a b&é"\r\nfile=\r\n');
  }),

  'a reload sends it again': () => withPage({}, async (page) => {
    const first = await send(page, 'text/plain');
    await page.reload();
    assert.equal(await page.locator('#method').innerText(), 'POST');
    assert.equal(await page.locator('#body').textContent(), first.body.toString('hex'));
  }),

  'another site gets nothing sent': () => withPage({}, async (page) => {
    let release;
    const held = new Promise((resolve) => { release = resolve; });
    await page.route('**/.rempart/challenge', async (route) => { await held; await route.continue(); });
    const sending = send(page, 'application/x-www-form-urlencoded', other);
    await page.locator('#lost').waitFor({ state: 'visible', timeout: 30_000 });
    assert.equal(await page.locator('#replay').count(), 0);
    await shot(page, 'replay-lost');
    release();
    const { method, body } = await sending;
    assert.equal(method, 'GET');
    assert.equal(body.length, 0);
  }),
});
