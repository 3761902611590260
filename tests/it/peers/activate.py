"""Starts a program as systemd does for a socket unit: listening sockets from descriptor 3 on.

    activate.py ADDRESS,ADDRESS... FILE PROGRAM ARGUMENT...

Says the bound addresses on standard error, as lines of JSON like the program's own, and writes them
into FILE in place of PASSED-0, PASSED-1 and so on.
"""

import json
import os
import socket
import sys

sockets = []
for address in sys.argv[1].split(","):
    host, port = address.rsplit(":", 1)
    bound = socket.create_server((host, int(port)), backlog=64)
    sockets.append(bound)
# First out of the way of the descriptors that they are to have.
high = [os.dup2(bound.fileno(), 100 + n) for n, bound in enumerate(sockets)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n, inheritable=True)
    os.set_inheritable(fd, False)
os.environ.update(
    LISTEN_PID=str(os.getpid()),
    LISTEN_FDS=str(len(sockets)),
    LISTEN_FDNAMES=":".join("rempart.socket" for _ in sockets),
)
with open(sys.argv[2]) as file:
    text = file.read()
for n, bound in enumerate(sockets):
    host, port = bound.getsockname()
    text = text.replace(f"PASSED-{n}", f"{host}:{port}")
    print(json.dumps({"message": "passed", "address": f"{host}:{port}"}), file=sys.stderr, flush=True)
with open(sys.argv[2], "w") as file:
    file.write(text)
os.execv(sys.argv[3], sys.argv[3:])
