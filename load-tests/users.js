// Users over their limit, each from many addresses; another user, at the same addresses, is not
// affected. API_KEYS names two keys: the first is the greedy user's.
//
//   k6 run -e BASE_URL=https://api.example.com -e API_KEYS=KEY1,KEY2 load-tests/users.js

import http from "k6/http";
import { check } from "k6";
import { Counter } from "k6/metrics";
import { scenario } from "k6/execution";
import { BASE_URL, base, client, number, steady } from "./common.js";

const HEADER = __ENV.API_KEY_HEADER || "x-api-key";
const [GREEDY, POLITE] = (__ENV.API_KEYS || "").split(",");
if (!GREEDY || !POLITE) throw new Error("API_KEYS must name two keys");

const refused = new Counter("refused");
const served = new Counter("served");

export const options = Object.assign({}, base, {
  scenarios: {
    greedy: steady("greedy", number("GREEDY_RATE", 100)),
    polite: steady("polite", number("POLITE_RATE", 2)),
  },
  thresholds: {
    checks: ["rate==1"],
    "refused{scenario:greedy}": ["count>0"],
    "served{scenario:greedy}": ["count>0"],
    "http_req_failed{scenario:polite}": ["rate==0"],
  },
});

function ask(key, callback) {
  const headers = Object.assign(client(scenario.iterationInTest), { [HEADER]: key });
  return http.get(BASE_URL + "/", { headers, responseCallback: callback });
}

export function greedy() {
  const answer = ask(GREEDY, http.expectedStatuses(200, 429));
  (answer.status === 429 ? refused : served).add(1);
  check(answer, {
    "served, or told to wait": (r) => r.status === 200 || r.status === 429,
    "a refusal says how long": (r) => r.status !== 429 || Number(r.headers["Retry-After"]) >= 1,
  });
}

export function polite() {
  check(ask(POLITE, http.expectedStatuses(200)), {
    "the polite user is served": (r) => r.status === 200,
  });
}
