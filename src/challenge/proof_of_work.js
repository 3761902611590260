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

  function inWorker() {
    self.onmessage = function (event) {
      var job = event.data, solve = solver(job.seed, job.limit);
      job.puzzles.forEach(function (puzzle) {
        self.postMessage([puzzle, solve(puzzle, 0, 4294967295)]);
      });
    };
  }

  function element(id) { return document.getElementById(id); }

  var data = element('challenge').dataset, count = +data.puzzles, limit = +data.limit;
  var nonces = new Array(count), solved = 0, workers = [], ended = false;
  var bytes = atob(data.token.replace(/-/g, '+').replace(/_/g, '/')), seed = [], i;
  for (i = bytes.length - 32; i < bytes.length; i += 4) {
    seed.push(bytes.charCodeAt(i) << 24 | bytes.charCodeAt(i + 1) << 16 | bytes.charCodeAt(i + 2) << 8 | bytes.charCodeAt(i + 3));
  }

  function say(text) { element('say').textContent = text; }

  function stop(text) {
    ended = true;
    workers.forEach(function (worker) { worker.terminate(); });
    element('bar').hidden = true;
    element('intro').hidden = true;
    element('title').textContent = data.failed;
    element('say').className = '';
    say(text);
    element('again').hidden = false;
  }

  function again() { if (element('replay')) element('replay').submit(); else location.reload(); }

  element('again').onclick = function () { forget(); again(); };

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
    if (ended || nonces[puzzle] !== undefined) return;
    nonces[puzzle] = nonce;
    solved++;
    element('bar').value = solved / count;
    if (solved === count) answer();
  }

  function answer() {
    ended = true;
    workers.forEach(function (worker) { worker.terminate(); });
    say(data.done);
    fetch(data.answer, {
      method: 'POST',
      credentials: 'same-origin',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({ token: data.token, nonces: nonces })
    }).then(function (response) {
      if (!response.ok) throw response.status;
      // What was posted is posted again. Else a new request for the same page; one with a fragment
      // is reloaded, so as to keep that.
      if (element('replay')) element('replay').submit();
      else if (location.hash) location.reload(); else location.replace(location.pathname + location.search);
    }).catch(function () {
      if (seen < 3) again();
      else stop(data.again);
    });
  }

  // Without workers: a little at a time, so that the page stays alive.
  function here() {
    var solve = solver(seed, limit), puzzle = 0, from = 0;
    (function step() {
      if (ended) return;
      var end = Date.now() + 30;
      while (puzzle < count && Date.now() < end) {
        if (nonces[puzzle] !== undefined) { puzzle++; continue; }
        var nonce = solve(puzzle, from, 256);
        if (nonce < 0) from += 256; else { done(puzzle++, nonce); from = 0; }
      }
      setTimeout(step, 0);
    })();
  }

  element('work').hidden = false;
  var seen = tries();
  if (!navigator.cookieEnabled) {
    stop(data.cookies);
    return;
  }
  if (seen > 5) {
    stop(data.loop);
    return;
  }
  say(data.wait);
  var many = Math.max(1, Math.min(4, navigator.hardwareConcurrency || 2)), inline = false;
  function fallBack() { if (!inline && !ended) { inline = true; here(); } }
  try {
    var source = URL.createObjectURL(new Blob([solver + ';(' + inWorker + ')();'], { type: 'text/javascript' }));
    for (i = 0; i < many; i++) {
      var worker = new Worker(source), puzzles = [];
      worker.onmessage = function (event) { done(event.data[0], event.data[1]); };
      worker.onerror = fallBack;
      for (var p = i; p < count; p += many) puzzles.push(p);
      workers.push(worker);
      worker.postMessage({ seed: seed, limit: limit, puzzles: puzzles });
    }
  } catch (e) { fallBack(); }
})();
