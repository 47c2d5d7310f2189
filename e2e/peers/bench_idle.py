"""Connections that rest: opens many, asks for one answer on each, and holds them until its input ends.

    bench_idle.py ADDRESS PORT plain|tls

Each line of the input is a number; so many connections are added, one after the other, from as many loopback addresses as
their ports need. The answer is a line with how many there are then. It ends with its input, or with an error if one fails.
"""

import resource
import socket
import ssl
import sys

PER_SOURCE = 20000
TIMEOUT_SECONDS = 30


def context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def connect(address, port, number, tls):
    source = f"127.0.0.{1 + number // PER_SOURCE}"
    connection = socket.create_connection((address, port), TIMEOUT_SECONDS, (source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        connection = tls.wrap_socket(connection)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(4096)
        if not part:
            raise ConnectionError("closed before the answer")
        answer += part
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(answer.split(b"\r\n")[0].decode())
    return connection


def main(address, port, kind):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tls = context() if kind == "tls" else None
    held = []
    for line in sys.stdin:
        for _ in range(int(line)):
            held.append(connect(address, int(port), len(held), tls))
        print(len(held), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
