"""A process that holds unfinished requests to the service, until its input ends: `half_requests.py PORT HEADS BODIES`.

Every other head gets a byte each second, and no head ends; each body lacks its last byte.
"""

import resource
import select
import socket
import sys
import time

BODY = 4 << 20
HEAD = b"GET /v1/saes HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/labels:lookup HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
UNFINISHED = memoryview(POST % BODY + b" " * (BODY - 1))


def main(port: int, n_heads: int, n_bodies: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    heads = [_connect(port) for _ in range(n_heads)]
    sent = {_connect(port): 0 for _ in range(n_bodies)}
    for head in heads:
        _try_to_send(head, HEAD)
    print("held", flush=True)
    bytes_at = 0.0
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        for body, n in sent.items():
            sent[body] = n + _try_to_send(body, UNFINISHED[n : n + (1 << 18)])
        if time.monotonic() > bytes_at:
            bytes_at = time.monotonic() + 1
            for head in heads[::2]:
                _try_to_send(head, b"X")


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setblocking(False)
    return connection


def _try_to_send(to: socket.socket, data: bytes | memoryview) -> int:
    try:
        return to.send(data)
    except OSError:  # full, or closed by the service
        return 0


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
