"""The server behind Autobahn's cases: it sends back every message, with per-message compression off.

    echo_websocket.py ADDRESS_FILE
"""

import asyncio
import os
import sys

import websockets
from websockets.asyncio.server import serve

MESSAGE_BYTES_MAX = 32 * 1024 * 1024


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except websockets.ConnectionClosed:
        pass


async def main(address_file):
    options = {"max_size": MESSAGE_BYTES_MAX, "compression": None, "ping_interval": None}
    async with serve(echo, "127.0.0.1", 0, **options) as server:
        port = server.sockets[0].getsockname()[1]
        beside = address_file + ".new"
        with open(beside, "w", encoding="utf-8") as file:
            file.write(f"127.0.0.1:{port}")
        os.rename(beside, address_file)
        await server.serve_forever()


asyncio.run(main(sys.argv[1]))
