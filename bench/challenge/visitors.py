#!/usr/bin/env python3
"""What visitors wait for, in Chromium, and what pages weigh, rung by rung.

    bench/challenge/visitors.py target/release/rempart [--visits 25]

Wall time depends on what else the machine does; the processor time of all the browser's processes hardly.
Needs what `scripts/install.sh test` installs.
"""

import argparse
import gzip
import http.client
import json
import os
import ssl
import statistics
import subprocess

from ladder import site

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
RUNGS = ["silent", "proof_of_work", "captcha", "third_party"]
LANGUAGES = sorted(name[:-5] for name in os.listdir(f"{ROOT}/src/challenge/page/locales"))


def page(port, rung, language, encoding):
    """The body of a page, and the encoding that it came in."""
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusting)
    connection.request("GET", f"/{rung}", headers={
        "accept": "text/html", "accept-encoding": encoding, "accept-language": language, "user-agent": "Mozilla/5.0"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 403 and answer.getheader("rempart-action") == "challenge", answer.status
    return body, answer.getheader("content-encoding")


def weigh(port):
    print(f"{'page':14} {'gzip':>7} {'plain':>7}   bytes; in English, and the heaviest language; offered `gzip, br, zstd`")
    for rung in RUNGS:
        weights = {}
        for language in LANGUAGES:
            packed, encoding = page(port, rung, language, "gzip, br, zstd")
            plain, none = page(port, rung, language, "identity")
            assert (encoding, none) == ("gzip", None)
            assert len(gzip.decompress(packed)) > 1000
            weights[language] = (len(packed), len(plain))
        heaviest = max(weights, key=weights.get)
        for language in ("en", heaviest):
            print(f"{rung:14} {weights[language][0]:7} {weights[language][1]:7}   {language}")


def wait(port, visits):
    node = subprocess.Popen(
        [f"{ROOT}/.tools/venv/bin/node", f"{ROOT}/bench/challenge/visitors.mjs"], cwd=f"{ROOT}/tests",
        env={**os.environ, "BASE_URL": f"https://localhost:{port}", "VISITS": str(visits)},
        stdout=subprocess.PIPE, text=True)
    ways = {}
    for line in node.stdout:
        seen = json.loads(line)
        ways.setdefault(seen["name"], []).append(seen)
    assert node.wait() == 0

    def cell(values):
        values = sorted(value for value in values if value is not None)
        if not values:
            return f"{'':>13}"
        return f"{statistics.median(values):6.0f} {values[int(len(values) * 0.95)]:6.0f}"

    print(f"{'milliseconds: median, p95':30} {'of waiting':>13}   {'of solving':>13}   {'of processor':>13}")
    for name, seen in ways.items():
        print(f"{name:30} " + "   ".join(cell(one[what] for one in seen) for what in ("wait", "solved", "cpu")))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rempart")
    parser.add_argument("--visits", type=int, default=25)
    options = parser.parse_args()
    with site(options.rempart, trusted="[127.0.0.0/8]") as (_, port):
        weigh(port)
        wait(port, options.visits)


if __name__ == "__main__":
    main()
