#!/usr/bin/env python3
"""Whether the work follows the visitors: forty networks solve what a Rempart asks of them, over and over.

    bench/challenge/effort.py target/release/rempart [--minutes 7]

Each has a machine of its own speed, from a fifth to five times the median, which is a slow one: what is solved at
once is sent when such a machine would have had it. It begins with four times as much work as takes the median one
half a second (the default `solve_time`). Prints what the forty waited, every half minute.
"""

import argparse
import base64
import hashlib
import http.client
import json
import random
import ssl
import statistics
import threading
import time

from ladder import site

NETWORKS = 40
MEDIAN = 1  # hashes a millisecond
EFFORT = 2000
TRUSTING = ssl.create_default_context()
TRUSTING.check_hostname = False
TRUSTING.verify_mode = ssl.CERT_NONE


def solve(token, puzzles, limit):
    seed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[-32:]
    nonces = []
    for puzzle in range(puzzles):
        start, nonce = hashlib.sha256(seed + puzzle.to_bytes(4, "big")), 0
        while True:
            hashed = start.copy()
            hashed.update(nonce.to_bytes(4, "big"))
            if int.from_bytes(hashed.digest()[:4], "big") <= limit:
                break
            nonce += 1
        nonces.append(nonce)
    return json.dumps({"token": token, "nonces": nonces})


def visit(port, number, speed):
    """Seconds that the visitor of a network waited, and the work that was asked for."""
    began = time.time()
    source = (f"127.{100 + number // 10}.{number % 10}.1", 0)
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=TRUSTING, source_address=source)
    connection.request("GET", "/proof_of_work")
    challenge = json.load(connection.getresponse())["challenge"]
    effort = challenge["puzzles"] * 2**32 / (challenge["limit"] + 1)
    answer = solve(challenge["token"], challenge["puzzles"], challenge["limit"])
    time.sleep(max(0, began + effort / speed / 1000 - time.time()))
    connection.request("POST", challenge["answer"], answer, {"content-type": "application/json"})
    status = connection.getresponse().status
    assert status == 204, status
    connection.close()
    return time.time() - began, effort


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rempart")
    parser.add_argument("--minutes", type=int, default=7)
    options = parser.parse_args()
    end = time.time() + options.minutes * 60
    seen = []

    def visitor(number):
        speed = MEDIAN * 5 ** (2 * number / (NETWORKS - 1) - 1)
        while time.time() < end:
            seen.append((number, *visit(port, number, speed)))
            time.sleep(random.uniform(2, 6))

    with site(options.rempart, work=f"{{ effort: {EFFORT}, solve_time: 500ms }}") as (_, port):
        for number in range(NETWORKS):
            threading.Thread(target=visitor, args=(number,), daemon=True).start()
        print(f"{'seconds':>7} {'hashes':>7} {'median':>7} {'p95 ms':>7}   of waiting, a network counting once")
        began, counted = time.time(), 0
        while time.time() < end:
            time.sleep(30)
            recent, counted = seen[counted:], len(seen)
            waits = sorted(statistics.median(wait for number, wait, _ in recent if number == one) * 1000
                           for one in {number for number, *_ in recent})
            hashes = statistics.median(effort for *_, effort in recent)
            print(f"{time.time() - began:7.0f} {hashes:7.0f} {statistics.median(waits):7.0f}"
                  f" {waits[int(len(waits) * 0.95)]:7.0f}", flush=True)


if __name__ == "__main__":
    main()
