// One client asks far more than its limit allows, others ask a little. The one is told 429 and how
// long to wait; the others notice nothing.
//
//   k6 run -e BASE_URL=https://app.example.com -e GREEDY_RATE=200 load-tests/over-limit.js

import http from "k6/http";
import { check } from "k6";
import { Counter } from "k6/metrics";
import { scenario } from "k6/execution";
import { BASE_URL, base, from, client, number, steady } from "./common.js";

const refused = new Counter("refused");
const served = new Counter("served");

export const options = Object.assign({}, base, {
  scenarios: {
    greedy: steady("greedy", number("GREEDY_RATE", 200)),
    polite: steady("polite", number("POLITE_RATE", 5)),
  },
  thresholds: {
    checks: ["rate==1"],
    // The limit bites, and lets through what it allows.
    "refused{scenario:greedy}": ["count>0"],
    "served{scenario:greedy}": ["count>0"],
    "http_req_failed{scenario:polite}": ["rate==0"],
    "http_req_duration{scenario:polite}": [`p(95)<${number("P95_MS", 500)}`],
  },
});

export function greedy() {
  const answer = http.get(BASE_URL + "/", {
    headers: from("203.0.113.1"),
    responseCallback: http.expectedStatuses(200, 429),
  });
  (answer.status === 429 ? refused : served).add(1);
  check(answer, {
    "served, or told to wait": (r) => r.status === 200 || r.status === 429,
    "a refusal says how long": (r) => r.status !== 429 || Number(r.headers["Retry-After"]) >= 1,
  });
}

export function polite() {
  const answer = http.get(BASE_URL + "/", { headers: client(scenario.iterationInTest) });
  check(answer, { "the polite are served": (r) => r.status === 200 });
}
