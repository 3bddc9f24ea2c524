"""The office of `tests/agentkit.py` behind real mutual TLS, for an agent that is a process of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc

from central.gateway import wire
from edge.config import EdgeConfig
from edge.spool import SpoolEntry
from protocol.errors import CorsiaError
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc
from tests.agentkit import Office, Wire
from tests.uplinkkit import Centre


class Bridge(rpc.AssignmentsServicer, rpc.DeliveryServicer, rpc.ModelsServicer):
    """Everything that the agent dials; `fetched` is what a hostile centre streams instead of an object."""

    def __init__(self, office: Office) -> None:
        self.office, self.wire = office, Wire(office)
        self.opened: dict[str, tuple[pb.OpenRequest, bytearray]] = {}
        self.fetched: Callable[[str], Iterator[bytes]] | None = None
        self.pushed: list[pb.Assignment] = []  # as no honest gateway makes them: one a stream, at its head
        self.streams: list[Wire] = []  # of all times; to close one is to end it

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.Assignment]:
        connection = Wire(self.office)
        self.streams.append(connection)
        if self.pushed:
            yield self.pushed.pop()
        context.add_callback(connection.closed.set)
        for assignment in connection.watch():
            yield wire.assignment_message(assignment, {})

    def Report(self, request: pb.SiteReport, context: grpc.ServicerContext) -> pb.ReportReply:
        heard = self.wire.report(wire.site_report(request))
        return wire.report_message(heard.server_time, heard.log)

    def Open(self, request: pb.OpenRequest, context: grpc.ServicerContext) -> pb.OpenReply:
        data = bytearray(request.data)
        self.opened[request.parcel_id] = (request, data)
        return pb.OpenReply(offset=len(data), committed=False)

    def Upload(self, messages: Iterator[pb.Chunk], context: grpc.ServicerContext) -> pb.UploadReply:
        size = 0
        for message in messages:
            self.opened[message.parcel_id][1].extend(message.data)
            size = len(self.opened[message.parcel_id][1])
        return pb.UploadReply(offset=size)

    def Commit(self, request: pb.CommitRequest, context: grpc.ServicerContext) -> pb.CommitReply:
        asked, data = self.opened[request.parcel_id]
        entry = SpoolEntry(
            parcel_id=asked.parcel_id, sequence=1, assignment_id=asked.assignment_id, study_digest=asked.study_digest,
            content_type=asked.content_type, digest=asked.digest, size_bytes=asked.size_bytes, path=Path("none"),
        )  # fmt: skip
        try:
            return wire.receipt_message(self.wire.deliver(entry, io.BytesIO(data), lambda: False))
        except CorsiaError as error:
            context.set_trailing_metadata((("corsia-code", error.code),))
            context.abort(grpc.StatusCode.DATA_LOSS, error.code)
            raise

    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        whole = [self.office.blobs[request.digest]] if self.fetched is None else self.fetched(request.digest)
        at = 0
        for data in whole:
            yield pb.Chunk(offset=at, data=data)
            at += len(data)

    def Prove(self, request: pb.ProveRequest, context: grpc.ServicerContext) -> pb.ProveReply:
        return wire.proof_message(self.wire.prove(request.index, request.size, request.to))


@contextmanager
def listening(config: EdgeConfig) -> Iterator[Bridge]:
    """A hostile centre at which the site of this configuration is enrolled."""
    keys = Centre().start()
    bridge = Bridge(Office(keys))
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    for add in (rpc.add_AssignmentsServicer_to_server, rpc.add_DeliveryServicer_to_server,
                rpc.add_ModelsServicer_to_server):  # fmt: skip
        add(bridge, server)  # type: ignore[no-untyped-call]
    pair = keys.authority.server()
    credentials = grpc.ssl_server_credentials((pair,), keys.authority.pem, require_client_auth=True)
    keys.fleet = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        keys.enrol(config.state_dir, config.site)
        yield bridge
    finally:
        server.stop(0).wait()
        keys.stop()


@contextmanager
def agent(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`corsia edge run`, until SIGTERM; its exit is orderly."""
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    command = [sys.executable, "-m", "corsia", "edge", "run", "--config", str(path)]
    with (path.parent / "agent.err").open("wb") as errors:
        process = subprocess.Popen(command, env=environment, stdout=errors, stderr=errors)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (path.parent / "agent.err").read_text()[-2000:]
