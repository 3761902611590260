"""A Rempart of which each path asks for another rung, for the measurements beside this file."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

CONFIG = """
listeners:
  - address: "127.0.0.1:{port}"
    tls: {{ certificates: [{{ certificate: cert.pem, private_key: key.pem }}] }}
admin: {{ address: "127.0.0.1:{admin}" }}
access_log: off
connections: {{ per_client: 20000, rate_per_client: 1000000/s, total: 20000 }}
clients: {{ trusted_proxies: {trusted} }}
upstreams: {{ up: {{ endpoints: ["127.0.0.1:{upstream}"] }} }}
limits:
  one: {{ key: [client.ip], rate: 1/h, burst: 1, over: throttle }}
routes:
  - {{ name: throttle, path: /throttle, upstream: up, limits: [one] }}
  - {{ name: all, path: /, upstream: up }}
rules:
  - {{ name: silent, when: 'request.path == "/silent"', then: {{ challenge: silent }} }}
  - {{ name: work, when: 'request.path == "/proof_of_work"', then: {{ challenge: proof_of_work }} }}
  - {{ name: captcha, when: 'request.path == "/captcha"', then: {{ challenge: captcha }} }}
  - {{ name: third, when: 'request.path == "/third_party"', then: {{ challenge: third_party }} }}
  - {{ name: risk, when: 'request.path == "/risk"', then: challenge }}
challenge:
  proof_of_work: {work}
  third_party:
    provider: turnstile
    site_key: site-key
    secret_file: provider.secret
    verify_url: http://127.0.0.1:{upstream}/siteverify
    script_url: http://127.0.0.1:{upstream}/api.js
"""
WIDGET = os.path.join(os.path.dirname(__file__), "../../tests/browser/widget.js")


class Upstream(http.server.BaseHTTPRequestHandler):
    """The application, and a provider that takes every token."""

    protocol_version = "HTTP/1.1"

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/api.js"):
            with open(WIDGET, "rb") as widget:
                return self.answer("text/javascript", widget.read())
        self.answer("text/html", b"<!doctype html><title>App</title><h1>original</h1>")

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        token = urllib.parse.parse_qs(asked)["response"][0]
        said = '{"success":true,"hostname":"%s","action":"rempart","error-codes":[]}'
        self.answer("application/json", (said % token.split(":")[1]).encode())

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def site(rempart, trusted="[]", work="{ adapt: false }", pinned=()):
    """The process and the port of its listener, until the block ends."""
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"],
            check=True, capture_output=True)
        port = free_port()
        with open(f"{folder}/provider.secret", "w") as file:
            file.write("secret-of-the-bench")
        with open(f"{folder}/rempart.yaml", "w") as file:
            file.write(CONFIG.format(
                port=port, admin=free_port(), trusted=trusted, work=work, upstream=upstream.server_address[1]))
        server = subprocess.Popen([*pinned, rempart, "run", "--config", file.name],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                raise SystemExit(f"{rempart} does not listen")
            yield server.pid, port
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(20)
            upstream.shutdown()
