#!/usr/bin/env python3
"""What it costs to refuse a banned client before TLS, beside HAProxy's `tcp-request connection reject`.

    cargo build --release --example connections
    bench/refuse/run.py REMPART[,OTHER] CONNECTIONS [--rounds 5] [--count 40000]

REMPART and CONNECTIONS are built binaries. Each server runs on one core, the same client on another;
CPU is what the server's threads spent (user and system, /proc/PID/task/*/schedstat), over the
connections refused. All are measured in each round, one after the other; medians are printed.
Connections come from 127.10.0.0/16 and are bounded in number.
"""
import argparse, glob, json, os, re, shutil, socket, statistics, subprocess, sys, tempfile, time

SERVER_CORE, CLIENT_CORE = "1", "0"
NETWORK = "10"

HAPROXY = """
global
  nbthread 1
  maxconn 8000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend banned
  bind 127.0.0.1:{port} backlog 4096
  tcp-request connection reject if {{ src 127.10.0.0/16 }}
  default_backend none
backend none
  server none 127.0.0.1:1
"""
REMPART = """
listeners:
  - address: "127.0.0.1:{port}"
    tls: {{ certificates: [{{ certificate: {folder}/cert.pem, private_key: {folder}/key.pem }}] }}
admin: {{ address: "127.0.0.1:{admin}", token_file: {folder}/token }}
access_log: off
upstreams: {{ none: {{ endpoints: ["127.0.0.1:1"] }} }}
routes: [{{ name: all, path: /, upstream: none }}]
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cpu_ns(pid):
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with open(path) as f:
            total += int(f.read().split()[0])
    return total


def overflows():
    """Connections that found a full queue, on the whole machine."""
    with open("/proc/net/netstat") as f:
        lines = [line.split() for line in f if line.startswith("TcpExt:")]
    return int(lines[1][lines[0].index("ListenOverflows")])


class Server:
    def __init__(self, name, command, port):
        self.name, self.port = name, port
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *command],
                                        stdout=self.log, stderr=self.log)
        deadline = time.time() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.time() > deadline or self.process.poll() is not None:
                    self.log.seek(0)
                    sys.exit(f"{name} does not start:\n{self.log.read().decode()}")
                time.sleep(0.05)

    def knock(self, connections, count, rate):
        before, full, start = cpu_ns(self.process.pid), overflows(), time.time()
        out = subprocess.run(["taskset", "-c", CLIENT_CORE, connections, "knock", f"127.0.0.1:{self.port}",
                              str(count), NETWORK, str(rate)],
                             check=True, capture_output=True, text=True, timeout=120).stdout
        seen = json.loads(out)
        if seen["other"]:
            sys.exit(f"{self.name}: {seen['other']} connections were not reset")
        seen["us"] = (cpu_ns(self.process.pid) - before) / 1e3 / seen["reset"]
        seen["overflows"] = overflows() - full
        seen["per_second"] = seen["reset"] / seen["seconds"]
        return seen

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def start_haproxy(folder):
    port = free_port()
    path = os.path.join(folder, "haproxy.cfg")
    with open(path, "w") as f:
        f.write(HAPROXY.format(port=port))
    return Server("haproxy", ["haproxy", "-db", "-f", path], port)


def start_rempart(folder, binary):
    port, admin = free_port(), free_port()
    path = os.path.join(folder, f"{port}.yaml")
    with open(path, "w") as f:
        f.write(REMPART.format(port=port, admin=admin, folder=folder))
    server = Server(os.path.basename(binary), [binary, "run", "--config", path], port)
    subprocess.run([binary, "bans", "add", "127.10.0.0/16", "--for", "1h", "--config", path],
                   check=True, stdout=subprocess.DEVNULL)
    return server


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rempart")
    p.add_argument("connections")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--count", type=int, default=40_000)
    a = p.parse_args()
    folder = tempfile.mkdtemp()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2",
                    "-keyout", folder + "/key.pem", "-out", folder + "/cert.pem"], check=True, capture_output=True)
    with open(os.open(folder + "/token", os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write("a-token-of-the-bench")
    servers = []
    try:
        servers.append(start_haproxy(folder))
        servers += [start_rempart(folder, binary) for binary in a.rempart.split(",")]
        for label, rate in (("as fast as the client goes", 0), ("10,000 a second", 10_000)):
            results = {server.name: [] for server in servers}
            for _ in range(a.rounds):
                for server in servers:
                    results[server.name].append(server.knock(a.connections, a.count, rate))
            print(f"\n{label} ({a.count} connections, {a.rounds} rounds)")
            peer = statistics.median(r["us"] for r in results["haproxy"])
            for name, rounds in results.items():
                us = statistics.median(r["us"] for r in rounds)
                each = " ".join(f"{r['us']:.2f}" for r in rounds)
                rate = statistics.median(r["per_second"] for r in rounds)
                print(f"  {name:10} {us:5.2f} us a refusal ({each}), {us / peer:.2f} of HAProxy, {rate:,.0f} a second, "
                      f"slowest {max(r['slowest_ms'] for r in rounds):.0f} ms, "
                      f"queue overflows {sum(r['overflows'] for r in rounds)}", flush=True)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
