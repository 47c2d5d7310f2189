"""A control plane that can't be trusted: a delta ADS server on grpcio that sends what a folder of JSON files says.

    rubbish_xds.py SCRIPT_FILE ADDRESS_FILE LOG_FILE

SCRIPT_FILE holds a list of responses, and is read again whenever it changes; a response is sent once to each stream:
{"type_url": .., "version": .., "nonce": .., "removed": [..],
 "resources": [{"name": .., "version": .., "json": {"@type": .., ..}} | {"name": .., "type_url": .., "hex": ".."}]}
or {"raw_hex": ".."}: bytes instead of a message. LOG_FILE gets every request as a line of JSON.
"""

import concurrent.futures
import importlib
import json
import os
import queue
import sys
import threading
import time

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

METHOD = "DeltaAggregatedResources"
PACKAGES = [
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.core.v3.extension_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.http.wasm.v3.wasm_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "google.protobuf.wrappers_pb2",
]


def response_bytes(script):
    if "raw_hex" in script:
        return bytes.fromhex(script["raw_hex"])
    response = discovery_pb2.DeltaDiscoveryResponse(
        type_url=script["type_url"],
        nonce=script.get("nonce", script["version"]),
        system_version_info=script["version"],
        removed_resources=script.get("removed", []),
    )
    for item in script.get("resources", []):
        resource = response.resources.add(name=item["name"], version=item.get("version", script["version"]))
        if "hex" in item:
            resource.resource.type_url = item["type_url"]
            resource.resource.value = bytes.fromhex(item["hex"])
        else:
            json_format.ParseDict(item["json"], resource.resource)
    return response.SerializeToString()


def main(script_file, address_file, log_file):
    for package in PACKAGES:
        importlib.import_module(package)
    log_lock = threading.Lock()

    def log(request):
        line = json_format.MessageToDict(request, preserving_proto_field_name=True)
        with log_lock, open(log_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def stream(requests, context):
        asked = set()
        todo = queue.Queue()

        def read():
            try:
                for data in requests:
                    request = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
                    asked.add(request.type_url)
                    log(request)
            except Exception:
                pass
            todo.put(None)

        threading.Thread(target=read, daemon=True).start()
        sent = 0
        while context.is_active():
            with open(script_file, encoding="utf-8") as file:
                scripts = json.load(file)
            while sent < len(scripts):
                script = scripts[sent]
                wanted = script.get("type_url")
                if wanted is not None and wanted not in asked:
                    break
                sent += 1
                yield response_bytes(script)
            try:
                if todo.get(timeout=0.02) is None:
                    return
            except queue.Empty:
                pass

    handler = grpc.stream_stream_rpc_method_handler(stream)
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    generic = grpc.method_handlers_generic_handler(service, {METHOD: handler})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with open(address_file + ".new", "w", encoding="utf-8") as file:
        file.write(f"127.0.0.1:{port}")
    os.rename(address_file + ".new", address_file)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
