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
# Linux's; Python has no name for it. The port is chosen at connect, when the peer is known, so that connections to others
# (the load tool's, that wait for their time to end) take none away.
IP_BIND_ADDRESS_NO_PORT = 24
TIMEOUT_SECONDS = 30


def context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def connect(address, port, number, tls):
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    connection.bind((f"127.0.0.{2 + number // PER_SOURCE}", 0))
    connection.connect((address, port))
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
