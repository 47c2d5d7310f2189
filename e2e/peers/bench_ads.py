"""A delta ADS server for the benchmark: many EDS clusters, and an endpoint of the first one that changes on demand.

    bench_ads.py CLUSTERS PORT

Its first line of output is the server's port. Clusters c0, c1, ... each have one endpoint at PORT of 127.0.0.1. Each line of
the input is a port: c0's endpoint moves there, and every stream is told just that. The answer is the time at which the change
was handed to the stream, in nanoseconds since 1970.
"""

import concurrent.futures
import queue
import sys
import threading
import time

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ASSIGNMENT = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


def cluster(name):
    made = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.EDS)
    made.connect_timeout.FromSeconds(2)
    made.eds_cluster_config.eds_config.ads.SetInParent()
    made.eds_cluster_config.eds_config.resource_api_version = 2  # V3
    return made


def assignment(name, port):
    made = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    address = made.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = "127.0.0.1", port
    return made


def response(type_url, number, resources):
    made = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url, nonce=str(number), system_version_info=str(number))
    for name, resource in resources:
        made.resources.add(name=name, version=str(number)).resource.Pack(resource, "type.googleapis.com/")
    return made


def main(clusters, port):
    clusters, port = int(clusters), int(port)
    names = [f"c{index}" for index in range(clusters)]
    streams, told, complaints = [], queue.Queue(), queue.Queue()

    def stream(requests, context):
        todo = queue.Queue()

        def listen():
            try:
                for data in requests:
                    request = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
                    if request.HasField("error_detail"):
                        complaints.put(request.error_detail.message)
                    elif request.type_url == CLUSTER and not request.response_nonce:
                        todo.put((CLUSTER, None))
                    elif request.type_url == ASSIGNMENT and request.resource_names_subscribe:
                        todo.put((ASSIGNMENT, list(request.resource_names_subscribe)))
            except Exception:
                pass
            todo.put(None)

        threading.Thread(target=listen, daemon=True).start()
        streams.append(todo)
        number = 0
        while (item := todo.get()) is not None:
            number += 1
            type_url, wanted = item
            if type_url == CLUSTER:
                yield response(CLUSTER, number, ((name, cluster(name)) for name in names)).SerializeToString()
            elif isinstance(wanted, list):
                found = ((name, assignment(name, port)) for name in wanted)
                yield response(ASSIGNMENT, number, found).SerializeToString()
            else:
                data = response(ASSIGNMENT, number, [("c0", assignment("c0", wanted))]).SerializeToString()
                told.put(time.time_ns())
                yield data
        streams.remove(todo)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=8))
    handler = {"DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(stream)}
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handler),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    for line in sys.stdin:
        if not complaints.empty():
            raise RuntimeError("the proxy refused: " + complaints.get())
        for todo in list(streams):
            todo.put((ASSIGNMENT, int(line)))
        print(told.get(timeout=30), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
