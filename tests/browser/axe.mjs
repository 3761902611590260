// Accessibility: what axe-core finds on a page fails the story. Other rungs' stories use `check` too.
//
// The page's policy lets no foreign script run: axe goes in through the debugger, past the policy.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { load } from './harness.mjs';

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
