// Normal load: many visitors, none of them over a limit. Nobody may be refused.
//
//   k6 run -e BASE_URL=https://app.example.com -e RATE=100 load-tests/normal.js

import http from "k6/http";
import { check } from "k6";
import { scenario } from "k6/execution";
import { BASE_URL, base, client, number, steady } from "./common.js";

const PATHS = (__ENV.PATHS || "/").split(",");

export const options = Object.assign({}, base, {
  scenarios: { visitors: steady("visit", number("RATE", 50)) },
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    http_req_duration: [`p(95)<${number("P95_MS", 500)}`],
    dropped_iterations: ["count==0"],
  },
});

export function visit() {
  const n = scenario.iterationInTest;
  const answer = http.get(BASE_URL + PATHS[n % PATHS.length], { headers: client(n) });
  check(answer, {
    "status is 200": (r) => r.status === 200,
    "carries a request id": (r) => Boolean(r.headers["X-Request-Id"]),
  });
}
