// All ways to solve a proof of work find the same nonces, and SHA-256 is that of the platform.
//
// SCRIPT  proof_of_work.js
// BINARY  its WebAssembly
// Prints how many hashes a second each makes; FOR=ms measures longer.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

const script = readFileSync(process.env.SCRIPT, 'utf8');
const binary = readFileSync(process.env.BINARY);
const part = (name, next) => script.slice(script.indexOf(`function ${name}(`), script.indexOf(`function ${next}(`));
const { solver, fastSolver, best } = new Function(
  `${part('solver', 'fastSolver')}${part('fastSolver', 'best')}${part('best', 'inWorker')} return { solver, fastSolver, best };`)();

const word = (seed, puzzle, nonce) => {
  const message = Buffer.alloc(40);
  seed.forEach((word, at) => message.writeInt32BE(word, at * 4));
  message.writeUInt32BE(puzzle, 32);
  message.writeUInt32BE(nonce >>> 0, 36);
  return createHash('sha256').update(message).digest().readUInt32BE();
};
const seedOf = (n) => {
  const digest = createHash('sha256').update(`seed ${n}`).digest();
  return Array.from({ length: 8 }, (_, at) => digest.readInt32BE(at * 4));
};

let checked = 0;
for (let n = 0; n < 40; n++) {
  const seed = seedOf(n), limit = n % 5 === 4 ? 0xffffffff : Math.floor(2 ** 32 / (n * 50 + 1)) - 1;
  const plain = solver(seed, limit), fast = fastSolver(binary, seed, limit);
  const both = best({ seed, limit, binary });
  assert.equal(both.name, 'wasm');
  for (let puzzle = 0; puzzle < 8; puzzle++) {
    const from = puzzle < 4 ? 0 : puzzle * 1001;
    const nonce = plain(puzzle, from, 1 << 24);
    assert.equal(fast(puzzle, from, 1 << 24), nonce, 'WebAssembly finds another');
    assert.equal(both.solve(puzzle, from, 1 << 24), nonce);
    assert.ok(word(seed, puzzle, nonce) <= limit, 'it is no solution');
    for (let before = from; before < nonce && before < from + 300; before++) {
      assert.ok(word(seed, puzzle, before) > limit, 'an earlier one was passed over');
    }
    checked += 1;
  }
  // None where there is none.
  assert.equal(solver(seed, 0)(1, 0, 64), -1);
  assert.equal(fastSolver(binary, seed, 0)(1, 0, 64), -1);
}
assert.equal(checked, 320);

// A wrong WebAssembly is found out, and one that can't be is done without.
for (const bad of [new Uint8Array(8), null, binary.subarray(0, 100)]) {
  assert.equal(best({ seed: seedOf(1), limit: 1 << 24, binary: bad }).name, 'js');
}
const broken = Buffer.from(binary);
broken[broken.indexOf(Buffer.from([0x98, 0x2f, 0x8a, 0x42]))] ^= 1;
const careful = best({ seed: seedOf(1), limit: 1 << 24, binary: broken });
assert.equal(careful.name, 'wasm');
assert.equal(careful.solve(3, 0, 1 << 20), solver(seedOf(1), 1 << 24)(3, 0, 1 << 20));

const time = Number(process.env.FOR ?? 50);
for (const [name, solve] of Object.entries({
  js: solver(seedOf(7), 0), wasm: fastSolver(binary, seedOf(7), 0),
})) {
  let hashes = 0;
  const began = process.hrtime.bigint();
  let took = 0;
  while (took < time) {
    solve(0, hashes, 4096);
    hashes += 4096;
    took = Number(process.hrtime.bigint() - began) / 1e6;
  }
  console.log(`hashes/s ${name} ${Math.round(hashes / took * 1000)}`);
}
console.log('ok   all ways find the same');
