// Answers the captcha's questions by parsing them, as a bot would.

import { readFileSync } from 'node:fs';

const words = JSON.parse(readFileSync(
  new URL('../../src/challenge/captcha/questions/en.json', import.meta.url), 'utf8'));
// What is shown of a word that has several spellings.
const shown = (word) => word.split('|')[0];
const days = words.days.map(shown);
const groups = words.groups.map((group) => group.map(shown));

export function solve(question) {
  const number = (word) => words.numbers.findIndex((spellings) => spellings.split('|').includes(word));
  for (const [form, texts] of Object.entries(words.ask)) {
    for (const text of texts) {
      const names = [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
      const pattern = text.replace(/[.*+?^$()|[\]\\]/g, '\\$&').replace(/\{\w+\}/g, '(.+)');
      const match = question.match(new RegExp(`^${pattern}$`));
      if (!match) continue;
      const value = Object.fromEntries(names.map((name, index) => [name, match[index + 1]]));
      const row = value.row?.split(words.separator);
      const group = (word) => groups.findIndex((group) => group.includes(word));
      switch (form) {
        case 'sum': return String(number(value.a) + number(value.b));
        case 'nth': return row[number(value.a) - 1];
        case 'after': return row[row.indexOf(value.word) + 1];
        case 'count': return String(row.length);
        case 'largest': return String(Math.max(...row.map(number)));
        case 'smallest': return String(Math.min(...row.map(number)));
        case 'odd': return row.find((word) => row.filter((other) => group(other) === group(word)).length === 1);
        case 'next': return days[(days.indexOf(row[1]) + 1) % 7];
        case 'letter': return value.word.at(-1);
      }
    }
  }
  throw new Error(`what is this question? ${question}`);
}
