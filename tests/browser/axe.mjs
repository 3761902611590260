// Accessibility: what axe-core finds on a page fails the story. Other rungs' stories use `check` too.
//
// The page's policy lets no foreign script run: axe goes in through the debugger, past the policy.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { load, withPage } from './harness.mjs';

const source = readFileSync(load.resolve('axe-core/axe.min.js'), 'utf8');
const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];

export async function check(page) {
  await page.evaluate(source);
  const { violations, passes } = await page.evaluate(
    (tags) => globalThis.axe.run({ runOnly: tags }), tags);
  assert.ok(passes.length > 5, 'axe looked at nothing');
  const found = violations.map(({ id, nodes }) =>
    `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join('; ')}`);
  assert.deepEqual(found, [], 'axe found');
}

// The same for a page in a browser without JavaScript, where axe can't run: on a copy in one that has it,
// with what stands in `noscript` in its place and without the page's scripts.
export async function checkStill(page, options) {
  const html = await page.content();
  const still = html.replace(/<script.*?<\/script>/gs, '').replace(/<(\/?)noscript\b/g, '<$1div');
  await withPage(options, async (copy) => {
    await copy.setContent(still);
    await check(copy);
  });
}
