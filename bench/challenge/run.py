#!/usr/bin/env python3
"""What a challenged request costs beside a throttled one: CPU a request of one worker, same process, in turns.

    bench/challenge/run.py target/release/rempart [--rounds 9] [--seconds 2]

Each rung has a path of its own; the load asks as a browser navigates (HTML, gzip) or as a program. Needs wrk
and openssl, and two cores: the server is pinned to the first, the load to the second.
"""

import argparse
import os
import re
import statistics
import subprocess

from ladder import site

PATHS = ["throttle", "silent", "proof_of_work", "captcha", "third_party", "risk"]
BROWSER = [
    "accept: text/html,application/xhtml+xml",
    "accept-language: en-GB,en;q=0.9",
    "accept-encoding: gzip, deflate, br",
    "sec-fetch-mode: navigate",
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36",
]
PROGRAM = ["accept: application/json"]


def cpu_seconds(pid):
    """Of all threads, from the scheduler's own nanoseconds."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            total += int(stat.read().split()[0])
    return total / 1e9


def load(port, path, headers, seconds):
    command = ["taskset", "-c", "1", "wrk", "-t1", "-c32", f"-d{seconds}s"]
    for header in headers:
        command += ["-H", header]
    command.append(f"https://127.0.0.1:{port}/{path}")
    said = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    count, size, unit = re.search(r"(\d+) requests in [\d.]+\w+, ([\d.]+)(\w+) read", said).groups()
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    assert refused and int(refused[1]) >= int(count) - 1, said
    size = float(size) * {"KB": 1024, "MB": 1024**2, "GB": 1024**3}[unit]
    return int(count), size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rempart")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    with site(options.rempart, pinned=["taskset", "-c", "0"]) as (pid, port):
        measure(pid, port, options)


def measure(pid, port, options):
    costs, sizes = {}, {}
    for number in range(options.rounds + 1):
        for who, headers in (("browser", BROWSER), ("program", PROGRAM)):
            for path in PATHS:
                before = cpu_seconds(pid)
                count, size = load(port, path, headers, options.seconds)
                if number:  # the first round warms up
                    costs.setdefault((who, path), []).append((cpu_seconds(pid) - before) / count * 1e6)
                    sizes[who, path] = size / count
    print(f"{'who':8} {'path':14} {'CPU µs':>8} {'to throttle':>12} {'bytes':>7}")
    for (who, path), cost in costs.items():
        ratio = statistics.median(own / base for own, base in zip(cost, costs[who, "throttle"]))
        print(f"{who:8} {path:14} {statistics.median(cost):8.1f} {ratio:12.2f} {sizes[who, path]:7.0f}")


if __name__ == "__main__":
    main()
