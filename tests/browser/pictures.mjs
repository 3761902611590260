// Makes the pictures of docs/images from what the browser's stories leave (SCREENSHOTS): cut to what is on
// them, and in 256 colours at most.
//
//   node pictures.mjs FROM TO

import { readFileSync, writeFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { crc32, deflateSync, inflateSync } from 'node:zlib';

// As docs/challenge.md shows them, and where they come from.
const pictures = {
  'challenge-silent': 'silent-light',
  'challenge-proof-of-work': 'proof-of-work-light',
  'challenge-captcha': 'captcha-picture-light',
  'challenge-captcha-dark': 'captcha-picture-dark',
  'challenge-captcha-mobile': 'captcha-picture-mobile',
  'challenge-captcha-question-fr': 'captcha-question-fr',
  'challenge-captcha-wait-fr': 'captcha-wait-fr',
  'challenge-third-party': 'third-party-turnstile',
};

const MARGIN = 24;

// Rows of pixels, each three bytes, of a PNG with 8 bits a channel and no interlace, as browsers write.
function read(file) {
  const png = readFileSync(file);
  const parts = [];
  let head;
  for (let at = 8; at < png.length;) {
    const length = png.readUInt32BE(at);
    const name = png.toString('latin1', at + 4, at + 8);
    const data = png.subarray(at + 8, at + 8 + length);
    if (name === 'IHDR') head = data;
    if (name === 'IDAT') parts.push(data);
    at += length + 12;
  }
  const [width, height] = [head.readUInt32BE(0), head.readUInt32BE(4)];
  const channels = { 2: 3, 6: 4 }[head[9]];
  if (head[8] !== 8 || !channels || head[12]) throw new Error(`${file}: not such a PNG`);
  const raw = inflateSync(Buffer.concat(parts));
  const stride = width * channels;
  const lines = [];
  let above = Buffer.alloc(stride);
  for (let y = 0; y < height; y += 1) {
    const filter = raw[y * (stride + 1)];
    const line = Buffer.from(raw.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1)));
    for (let x = 0; x < stride; x += 1) {
      const a = x < channels ? 0 : line[x - channels];
      const b = above[x];
      const c = x < channels ? 0 : above[x - channels];
      const near = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      const paeth = near[0] <= near[1] && near[0] <= near[2] ? a : near[1] <= near[2] ? b : c;
      line[x] += [0, a, b, (a + b) >> 1, paeth][filter];
    }
    above = line;
    lines.push(Array.from({ length: width }, (_, x) => line.readUIntBE(x * channels, 3)));
  }
  return lines;
}

// Without the empty space around; what differs from the corner is something.
function cut(lines) {
  const empty = lines[0][0];
  const rows = lines.map((line) => line.some((pixel) => pixel !== empty));
  const columns = lines[0].map((_, x) => lines.some((line) => line[x] !== empty));
  const range = (used) => [
    Math.max(0, used.indexOf(true) - MARGIN), Math.min(used.length, used.lastIndexOf(true) + 1 + MARGIN)];
  const [top, bottom] = range(rows);
  const [left, right] = range(columns);
  return lines.slice(top, bottom).map((line) => line.slice(left, right));
}

// The colours that most pixels have; the others are taken for the nearest of them.
function write(file, lines) {
  const counts = new Map();
  for (const pixel of lines.flat()) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const palette = [...counts].sort((one, other) => other[1] - one[1]).slice(0, 256).map(([pixel]) => pixel);
  const split = (pixel) => [pixel >> 16, (pixel >> 8) & 255, pixel & 255];
  const distance = (one, other) => {
    const [a, b] = [split(one), split(other)];
    return a.reduce((sum, value, channel) => sum + (value - b[channel]) ** 2, 0);
  };
  const index = new Map(palette.map((pixel, at) => [pixel, at]));
  for (const pixel of counts.keys()) {
    if (index.has(pixel)) continue;
    const nearest = palette.reduce((best, other, at) =>
      distance(pixel, other) < distance(pixel, palette[best]) ? at : best, 0);
    index.set(pixel, nearest);
  }
  const chunk = (name, data) => {
    const body = Buffer.concat([Buffer.from(name, 'latin1'), data]);
    const framed = Buffer.alloc(body.length + 8);
    framed.writeUInt32BE(data.length, 0);
    body.copy(framed, 4);
    framed.writeUInt32BE(crc32(body), body.length + 4);
    return framed;
  };
  const head = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 3, 0, 0, 0]);
  head.writeUInt32BE(lines[0].length, 0);
  head.writeUInt32BE(lines.length, 4);
  const rows = lines.map((line) => Buffer.from([0, ...line.map((pixel) => index.get(pixel))]));
  const png = Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', head),
    chunk('PLTE', Buffer.from(palette.flatMap(split))),
    chunk('IDAT', deflateSync(Buffer.concat(rows), { level: 9 })),
    chunk('IEND', Buffer.alloc(0)),
  ]);
  writeFileSync(file, png);
  console.log(`${file}: ${png.length} bytes`);
}

const [from, to] = process.argv.slice(2);
mkdirSync(to, { recursive: true });
for (const [name, source] of Object.entries(pictures)) {
  write(join(to, `${name}.png`), cut(read(join(from, `${source}.png`))));
}
