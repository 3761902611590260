#!/usr/bin/env python3
"""What an idle TLS connection holds of the server's memory, after one request.

    cargo build --release --example connections
    bench/memory/run.py REMPART CONNECTIONS h1|h2 [--count 20000] [--workers 1]

REMPART and CONNECTIONS are built binaries. A first tenth of the connections warms the server up and is
not counted. The upstream is an nginx that answers 1 KiB. Needs as many file descriptors as there are
connections, in the server, and half as many in each of two clients: `ulimit -n`.
"""
import argparse, os, shutil, socket, subprocess, sys, tempfile, time

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 {body}; }} }}
}}
"""
REMPART = """
listeners:
  - address: "127.0.0.1:{port}"
    tls: {{ certificates: [{{ certificate: {folder}/cert.pem, private_key: {folder}/key.pem }}] }}
access_log: off
connections: {{ per_client: off, rate_per_client: off, total: 100000, timeouts: {{ idle: 10m }} }}
upstreams: {{ up: {{ endpoints: ["127.0.0.1:{upstream}"] }} }}
routes: [{{ name: all, path: /, upstream: up }}]
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port, process):
    deadline = time.time() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.time() > deadline or process.poll() is not None:
                sys.exit("the server does not start")
            time.sleep(0.05)


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        fields = dict(line.split(":", 1) for line in f)
    return int(fields["VmRSS"].split()[0])


def settled(pid):
    """The memory when it no longer moves."""
    last = status(pid)
    for _ in range(20):
        time.sleep(1)
        now = status(pid)
        if abs(now - last) < 64:
            return now
        last = now
    return last


class Clients:
    """Connections held by one client process."""

    def __init__(self, program, port, count, protocol, ca, network):
        self.process = subprocess.Popen(
            [program, "hold", f"127.0.0.1:{port}", str(count), str(network), protocol, ca],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait(self):
        line = self.process.stdout.readline().split()
        if line[:1] != ["held"]:
            sys.exit(f"the client failed: {line}")
        return int(line[1])

    def end(self):
        """How many are still open."""
        self.process.stdin.close()
        alive = int(self.process.stdout.readline().split()[1])
        self.process.wait(20)
        return alive


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rempart")
    p.add_argument("connections")
    p.add_argument("protocol", choices=["h1", "h2"])
    p.add_argument("--count", type=int, default=20_000)
    p.add_argument("--workers", type=int, default=1)
    a = p.parse_args()
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o755)
    processes = []
    try:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                        "-addext", "basicConstraints=critical,CA:false", "-days", "2",
                        "-keyout", folder + "/key.pem", "-out", folder + "/cert.pem"], check=True, capture_output=True)
        port, upstream = free_port(), free_port()
        with open(folder + "/nginx.conf", "w") as f:
            f.write(NGINX.format(folder=folder, port=upstream, body="x" * 1024))
        with open(folder + "/rempart.yaml", "w") as f:
            f.write(REMPART.format(folder=folder, port=port, upstream=upstream))
        nginx = subprocess.Popen(["nginx", "-p", folder, "-c", folder + "/nginx.conf"], stderr=subprocess.DEVNULL)
        processes.append(nginx)
        wait_for_port(upstream, nginx)
        cores = ",".join(str(core) for core in range(a.workers))
        log = open(folder + "/log", "w")
        rempart = subprocess.Popen(["taskset", "-c", cores, a.rempart, "run", "--config", folder + "/rempart.yaml"],
                                   stdout=log, stderr=log)
        processes.append(rempart)
        wait_for_port(port, rempart)
        ca = folder + "/cert.pem"
        start = status(rempart.pid)
        tenth = a.count // 10
        groups = [Clients(a.connections, port, tenth, a.protocol, ca, 20)]
        groups[0].wait()
        warm = settled(rempart.pid)
        half = (a.count - tenth) // 2
        groups += [Clients(a.connections, port, half, a.protocol, ca, 21 + n) for n in range(2)]
        held = sum(group.wait() for group in groups[1:])
        full = settled(rempart.pid)
        alive = sum(group.end() for group in groups)
        print(f"{a.protocol}, {a.workers} worker(s): {tenth + held} connections held, {alive} of them open at the end; "
              f"VmRSS {start / 1024:.1f} MiB without any, {warm / 1024:.1f} with {tenth}, {full / 1024:.1f} with all; "
              f"{(full - warm) / held:.2f} KiB a connection", flush=True)
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
