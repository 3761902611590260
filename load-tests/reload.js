// Load that must not notice what happens to the edge meanwhile: reload it (SIGHUP, a new ConfigMap,
// a rotated certificate) as often as you like while this runs. Not one request may fail. Half of the
// visitors keep their connection, half open a new one for each request.
//
//   k6 run -e BASE_URL=https://app.example.com -e DURATION=60s load-tests/reload.js

import http from "k6/http";
import { check } from "k6";
import { scenario } from "k6/execution";
import { BASE_URL, base, client, number, steady } from "./common.js";

const RATE = number("RATE", 40);

export const options = Object.assign({}, base, {
  scenarios: {
    keeping: steady("visit", RATE),
    // `noVUConnectionReuse` is for all scenarios alike; asking the edge to close does it for one.
    opening: steady("open", RATE),
  },
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
  },
});

function served(headers) {
  const answer = http.get(BASE_URL + "/", { headers });
  check(answer, { "status is 200": (r) => r.status === 200 });
}

export function visit() {
  served(client(scenario.iterationInTest));
}

export function open() {
  served(Object.assign(client(scenario.iterationInTest), { connection: "close" }));
}
