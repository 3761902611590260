// What visitors wait for in Chromium, rung by rung: a fresh context a visit, ways in turns, so that whatever
// else the machine does meets all of them. Started by visitors.py; prints a line of JSON a visit.
//
// BASE_URL  where Rempart listens; each path asks for the rung of its name
// VISITS    of each way

import { base, browser } from '../../tests/browser/harness.mjs';
import { solve } from '../../tests/browser/question.mjs';

const processes = await browser.newBrowserCDPSession();

// Seconds of all the browser's processes.
async function processor() {
  const { processInfo } = await processes.send('SystemInfo.getProcessInfo');
  return processInfo.reduce((sum, { cpuTime }) => sum + cpuTime, 0);
}

const noWasm = () => {
  const Usual = globalThis.Blob;
  globalThis.Blob = function (parts, options) {
    return new Usual(['delete self.WebAssembly;', ...parts], options);
  };
};
const noWorker = () => { delete globalThis.Worker; };
// A person answers at once here: reading and typing are not the page's doing.
const question = async (page) => {
  await page.locator('button[value=question]').click();
  await page.locator('label span').waitFor();
  await page.locator('#answer').fill(solve(await page.locator('label').innerText()));
  await page.keyboard.press('Enter');
};
const widget = async (page) => page.locator('#human').click();

const ways = {
  'no challenge': { path: '/open' },
  'silent': { path: '/silent' },
  'silent, no JavaScript': { path: '/silent', options: { javaScriptEnabled: false } },
  'proof of work': { path: '/proof_of_work' },
  'proof of work, one worker': {
    path: '/proof_of_work',
    script: () => Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', { get: () => 1 }),
  },
  'proof of work, no workers': { path: '/proof_of_work', script: noWorker },
  'proof of work, no WebAssembly': { path: '/proof_of_work', script: noWasm },
  'captcha, a question': { path: '/captcha', act: question },
  'third party': { path: '/third_party', act: widget },
};

async function visit(number, { path, options, script, act }) {
  const context = await browser.newContext({
    ignoreHTTPSErrors: true,
    ...options,
    // Each is from a network of its own: no risk adds up.
    extraHTTPHeaders: { 'x-forwarded-for': `10.${number >> 8}.${number & 255}.1` },
  });
  const page = await context.newPage();
  if (script) await page.addInitScript(script);
  let solved = null;
  // What the page itself took is asked before it is gone.
  if (path === '/proof_of_work') {
    await page.route('**/.rempart/challenge', async (route) => {
      solved = await page.evaluate(() => Number(document.getElementById('challenge').dataset.took));
      await route.continue();
    });
  }
  await page.goto('about:blank');
  const before = await processor();
  const began = performance.now();
  await page.goto(new URL(path, base).href);
  if (act) await act(page);
  await page.getByText('original').waitFor({ timeout: 120_000 });
  const wait = performance.now() - began;
  const cpu = (await processor() - before) * 1000;
  await context.close();
  return { wait, cpu, solved };
}

let number = 0;
for (let round = -1; round < Number(process.env.VISITS); round += 1) {
  for (const [name, way] of Object.entries(ways)) {
    number += 1;
    const seen = await visit(number, way);
    // The first round warms up.
    if (round >= 0) console.log(JSON.stringify({ name, ...seen }));
  }
}
await browser.close();
process.exit(0);
