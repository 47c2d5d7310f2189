"""grpcio as an independent xDS client: a backend, and a client that finds backends through `xds:///`.

    grpc_peer.py serve NAME ADDRESS_FILE
    grpc_peer.py call XDS_ADDRESS TARGET RESULT_FILE

The client calls in batches for as long as it runs, and after each batch replaces RESULT_FILE with one JSON object:
{"batch": N, "names": {BACKEND: COUNT}, "errors": [..]}.
"""

import concurrent.futures
import json
import os
import sys
import time

METHOD = "/outrigger.test.Echo/Name"
BATCH = 20


def write(path, text):
    """In one atomic step, so that a reader never sees half of it."""
    beside = path + ".new"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(beside, path)


def serve(name, address_file):
    import grpc

    def answer(_request, _context):
        return name.encode()

    handler = grpc.unary_unary_rpc_method_handler(answer)
    generic = grpc.method_handlers_generic_handler("outrigger.test.Echo", {"Name": handler})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    write(address_file, f"127.0.0.1:{port}")
    server.wait_for_termination()


def call(xds_address, target, result_file):
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps({
        "xds_servers": [{
            "server_uri": xds_address,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": "grpc-client", "locality": {}},
    })
    import grpc

    channel = grpc.insecure_channel(f"xds:///{target}")
    method = channel.unary_unary(METHOD)
    batch = 0
    while True:
        names, errors = {}, []
        for _ in range(BATCH):
            try:
                name = method(b"", timeout=10, wait_for_ready=True).decode()
                names[name] = names.get(name, 0) + 1
            except grpc.RpcError as error:
                errors.append(f"{error.code()}: {error.details()}")
        batch += 1
        write(result_file, json.dumps({"batch": batch, "names": names, "errors": errors}))
        time.sleep(0.05)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
    elif sys.argv[1:2] == ["call"]:
        call(*sys.argv[2:])
    else:
        sys.exit(__doc__)
