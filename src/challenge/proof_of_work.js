(function () {
  'use strict';

  // Runs in a worker, or here when there are no workers: solves puzzles by SHA-256 of
  // seed (8 words), puzzle, nonce. The words before the nonce are hashed once a puzzle.
  function solver(seed, limit) {
    var K = new Int32Array([0x428a2f98,0x71374491,0xb5c0fbcf,0xe9b5dba5,0x3956c25b,0x59f111f1,0x923f82a4,0xab1c5ed5,0xd807aa98,0x12835b01,0x243185be,0x550c7dc3,0x72be5d74,0x80deb1fe,0x9bdc06a7,0xc19bf174,0xe49b69c1,0xefbe4786,0xfc19dc6,0x240ca1cc,0x2de92c6f,0x4a7484aa,0x5cb0a9dc,0x76f988da,0x983e5152,0xa831c66d,0xb00327c8,0xbf597fc7,0xc6e00bf3,0xd5a79147,0x6ca6351,0x14292967,0x27b70a85,0x2e1b2138,0x4d2c6dfc,0x53380d13,0x650a7354,0x766a0abb,0x81c2c92e,0x92722c85,0xa2bfe8a1,0xa81a664b,0xc24b8b70,0xc76c51a3,0xd192e819,0xd6990624,0xf40e3585,0x106aa070,0x19a4c116,0x1e376c08,0x2748774c,0x34b0bcb5,0x391c0cb3,0x4ed8aa4a,0x5b9cca4f,0x682e6ff3,0x748f82ee,0x78a5636f,0x84c87814,0x8cc70208,0x90befffa,0xa4506ceb,0xbef9a3f7,0xc67178f2]);
    var H = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
    var w = new Int32Array(64);
    function rounds(s, from, to) {
      var a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7], i, t, u;
      for (i = from; i < to; i++) {
        t = (h + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7)) + (g ^ e & (f ^ g)) + K[i] + w[i]) | 0;
        u = (((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10)) + (a & b | c & (a | b))) | 0;
        h = g; g = f; f = e; e = (d + t) | 0; d = c; c = b; b = a; a = (t + u) | 0;
      }
      return from ? a : [a, b, c, d, e, f, g, h];
    }
    return function (puzzle, from, count) {
      var i, x, y, nonce, start;
      for (i = 0; i < 8; i++) w[i] = seed[i];
      w[8] = puzzle; w[10] = 0x80000000; w[15] = 320;
      w[11] = w[12] = w[13] = w[14] = 0;
      start = rounds(H, 0, 9);
      for (nonce = from; nonce < from + count; nonce++) {
        w[9] = nonce;
        for (i = 16; i < 64; i++) {
          x = w[i - 15]; y = w[i - 2];
          w[i] = (w[i - 16] + w[i - 7] + ((x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3) + ((y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10)) | 0;
        }
        if ((rounds(start, 9, 64) + 0x6a09e667) >>> 0 <= limit) return nonce;
      }
      return -1;
    };
  }

  // The same by WebAssembly, four nonces at a time; throws where there is none, or no SIMD.
  function fastSolver(binary, seed, limit) {
    var code = new WebAssembly.Instance(new WebAssembly.Module(binary)).exports;
    var words = new Int32Array(code.memory.buffer, 0, 9);
    words.set(seed);
    return function (puzzle, from, count) {
      words[8] = puzzle;
      return code.solve(from, count, limit);
    };
  }

  // The fastest there is. What WebAssembly finds is hashed once more: one that computes wrongly costs
  // time, not the visit.
  function best(job) {
    var plain = solver(job.seed, job.limit), fast = null;
    try { fast = fastSolver(job.binary, job.seed, job.limit); } catch (e) { }
    return {
      name: fast ? 'wasm' : 'js',
      solve: function (puzzle, from, count) {
        var nonce = fast ? fast(puzzle, from, count) : -1;
        if (fast && (nonce < 0 || plain(puzzle, nonce, 1) === nonce)) return nonce;
        fast = null;
        return plain(puzzle, from, count);
      }
    };
  }

  function inWorker() {
    var work;
    self.onmessage = function (event) {
      if (event.data.seed) {
        work = best(event.data);
        self.postMessage([work.name]);
      } else {
        self.postMessage([event.data[0], work.solve(event.data[0], 0, 0x7ffffffc)]);
      }
    };
  }

  function element(id) { return document.getElementById(id); }

  function show(id, visible) { if (element(id)) element(id).hidden = !visible; }
  function decode(text) {
    var binary = atob(text.replace(/-/g, '+').replace(/_/g, '/')), bytes = new Uint8Array(binary.length), i;
    for (i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  }

  var data = element('challenge').dataset, count = +data.puzzles;
  var nonces = new Array(count), solved = 0, next = 0, workers = [], ended = false, began = Date.now(), i;
  // The seed is the token's last 32 bytes.
  var token = decode(data.token), tail = new DataView(token.buffer, token.length - 32);
  var job = { seed: [], limit: +data.limit, binary: decode(data.solver) };
  for (i = 0; i < 32; i += 4) job.seed.push(tail.getInt32(i));

  function say(text) { element('say').textContent = text; }

  function end() {
    ended = true;
    workers.forEach(function (worker) { worker.terminate(); });
  }

  // `instead`: whether another kind of challenge may help.
  function stop(text, instead) {
    end();
    show('bar', false);
    show('intro', false);
    element('title').textContent = data.failed;
    element('say').className = '';
    say(text);
    show('again', true);
    show('instead', instead);
  }

  element('again').onclick = function () { forget(); location.reload(); };

  // Whoever comes back again and again is told so, instead of computing for ever.
  function tries() {
    try {
      var kept = JSON.parse(sessionStorage.getItem('rempart')) || {}, now = Date.now();
      kept = { n: now - kept.t < 60000 ? kept.n + 1 : 1, t: now };
      sessionStorage.setItem('rempart', JSON.stringify(kept));
      return kept.n;
    } catch (e) { return 1; }
  }
  function forget() { try { sessionStorage.removeItem('rempart'); } catch (e) { } }

  function done(puzzle, nonce) {
    if (ended || nonces[puzzle] !== undefined || nonce < 0) return;
    nonces[puzzle] = nonce;
    solved++;
    element('bar').value = solved / count;
    if (solved === count) answer();
  }

  function answer() {
    end();
    show('instead', false);
    say(data.done);
    data.took = Date.now() - began;
    fetch(data.answer, {
      method: 'POST',
      credentials: 'same-origin',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({ token: data.token, nonces: nonces })
    }).then(function (response) {
      if (!response.ok) throw response.status;
      if (element('replay')) element('replay').submit();
      // A new request for the same page; one with a fragment is reloaded, so as to keep that.
      else if (location.hash) location.reload();
      else location.replace(location.pathname + location.search);
    }).catch(function () {
      if (seen < 3) location.reload();
      else stop(data.again, true);
    });
  }

  // Without workers: a little at a time, so that the page stays alive. By messages, not timers, which
  // browsers slow down in the background; and by count too, since clocks may be coarse.
  function here() {
    var work = best(job), puzzle = 0, from = 0, turn = new MessageChannel();
    data.path = work.name + ', no worker';
    turn.port1.onmessage = function () {
      var late = Date.now() + 30, left = 64;
      while (!ended && puzzle < count && left-- > 0 && Date.now() < late) {
        if (nonces[puzzle] !== undefined) { puzzle++; from = 0; continue; }
        var nonce = work.solve(puzzle, from, 512);
        if (nonce < 0) from += 512; else { done(puzzle++, nonce); from = 0; }
      }
      if (!ended) turn.port2.postMessage(0);
    };
    turn.port2.postMessage(0);
  }

  show('work', true);
  show('instead', false);
  var seen = tries();
  if (!navigator.cookieEnabled) {
    stop(data.cookies, false);
    return;
  }
  if (seen > 5) {
    stop(data.loop, true);
    return;
  }
  say(data.wait);
  // Who comes back to this page by the browser's history wants the page behind it.
  addEventListener('pageshow', function (event) { if (event.persisted) location.reload(); });
  addEventListener('pagehide', end);
  setTimeout(function () { if (!ended) show('instead', true); }, 15000);

  var inline = false, many = Math.max(1, Math.min(4, navigator.hardwareConcurrency || 2));
  function fallBack() { if (!inline && !ended) { inline = true; here(); } }
  function give(worker) { if (next < count) worker.postMessage([next++]); }
  function heard(event) {
    if (event.data.length === 1) {
      data.path = event.data[0];
      return;
    }
    if (event.data[1] < 0) fallBack();
    done(event.data[0], event.data[1]);
    if (!ended) give(this);
  }
  try {
    var source = URL.createObjectURL(new Blob([[solver, fastSolver, best, '(' + inWorker + ')()'].join(';')], { type: 'text/javascript' }));
    for (i = 0; i < many; i++) {
      var worker = new Worker(source);
      worker.onmessage = heard;
      worker.onerror = fallBack;
      workers.push(worker);
      worker.postMessage(job);
      // Two, so that none waits for the next.
      give(worker);
      give(worker);
    }
    // Some browsers make workers that never run.
    setTimeout(function () { if (!data.path) fallBack(); }, 3000);
  } catch (e) { fallBack(); }
})();
