"""A server of secrets on grpcio: SDS and ADS, state of the world and delta.

    sds.py FOLDER ADDRESS_FILE [SOCKET]

FOLDER holds NAME.json files, each a Secret as JSON; it is read again whenever one changes, and changed secrets go to every
stream that asks for them. SOCKET: a Unix socket to listen on as well. FOLDER/requests.log gets every request as a line.
"""

import concurrent.futures
import json
import os
import queue
import sys
import threading

import grpc
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
POLL_SECONDS = 0.02


def read(folder):
    """Secrets by name, with a version for each."""
    secrets = {}
    for file in os.listdir(folder):
        if not file.endswith(".json"):
            continue
        with open(os.path.join(folder, file), encoding="utf-8") as handle:
            text = handle.read()
        secret = json_format.ParseDict(json.loads(text), secret_pb2.Secret())
        secrets[secret.name] = (str(hash(text)), secret)
    return secrets


def main(folder, address_file, socket=None):
    lock = threading.Lock()

    def log(kind, request):
        line = json_format.MessageToDict(request, preserving_proto_field_name=True)
        with lock, open(os.path.join(folder, "requests.log"), "a", encoding="utf-8") as file:
            file.write(json.dumps({"rpc": kind, "request": line}) + "\n")

    def handler(kind, is_delta):
        request_type = discovery_pb2.DeltaDiscoveryRequest if is_delta else discovery_pb2.DiscoveryRequest

        def stream(requests, context):
            wanted, sent, todo = set(), {}, queue.Queue()

            def listen():
                try:
                    for data in requests:
                        request = request_type.FromString(data)
                        log(kind, request)
                        if request.type_url != TYPE:
                            continue
                        if is_delta:
                            wanted.update(request.resource_names_subscribe)
                            wanted.difference_update(request.resource_names_unsubscribe)
                        else:
                            wanted.clear()
                            wanted.update(request.resource_names)
                except Exception:
                    pass
                todo.put(None)

            threading.Thread(target=listen, daemon=True).start()
            number = 0
            while context.is_active():
                try:
                    todo.get(timeout=POLL_SECONDS)
                    return
                except queue.Empty:
                    pass
                found = read(folder)
                fresh = [n for n in sorted(wanted) if n in found and sent.get(n) != found[n][0]]
                if not fresh:
                    continue
                number += 1
                if is_delta:
                    response = discovery_pb2.DeltaDiscoveryResponse(type_url=TYPE, nonce=str(number))
                    for name in fresh:
                        item = response.resources.add(name=name, version=found[name][0])
                        item.resource.Pack(found[name][1], "type.googleapis.com/")
                else:
                    response = discovery_pb2.DiscoveryResponse(
                        type_url=TYPE, nonce=str(number), version_info=str(number)
                    )
                    for name in fresh:
                        response.resources.add().Pack(found[name][1], "type.googleapis.com/")
                sent.update({name: found[name][0] for name in fresh})
                yield response.SerializeToString()

        return grpc.stream_stream_rpc_method_handler(stream)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32))
    for service, methods in {
        "envoy.service.secret.v3.SecretDiscoveryService": ["StreamSecrets", "DeltaSecrets"],
        "envoy.service.discovery.v3.AggregatedDiscoveryService": [
            "StreamAggregatedResources",
            "DeltaAggregatedResources",
        ],
    }.items():
        handlers = {method: handler(method, method.startswith("Delta")) for method in methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    if socket:
        server.add_insecure_port("unix:" + socket)
    server.start()
    beside = address_file + ".new"
    with open(beside, "w", encoding="utf-8") as file:
        file.write(f"127.0.0.1:{port}")
    os.rename(beside, address_file)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
