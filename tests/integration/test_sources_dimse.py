"""A PACS by DIMSE that has moods: a real peer on loopback which hangs up, fails or is slow at a chosen moment."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, StoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move

from corsia.fleet import free_port
from edge.config import DatasetConfig
from edge.sources import association, inbox
from edge.sources.inbox import Inbox
from edge.sources.mirror import Mirror
from edge.sources.pulling import places, pull
from protocol.errors import StorageError, UnavailableError
from tests.integration.test_sources_pacs import instances, named, uids
from tests.sourcekit import until

LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_LISTED, _SUCCESS = bytes.fromhex("0000000102000000 2080"), bytes.fromhex("0000000902000000 0000")  # PS3.7, 9.3.2.2
Mood = Callable[[str, evt.Event], int]  # what is asked for ("STUDY", ..., "GET", "MOVE") -> a status, 0 to serve it


class Peer:
    """A PACS with some instances, asked by `mood` what to answer each time.

    Attributes:
        asked: how often what was asked for.
        lost: an instance that it lists and cannot give.
        hangs_up: told of each list that was sent whole, says whether to abort then.
    """

    def __init__(self, files: list[bytes], mood: Mood = lambda _what, _event: 0) -> None:
        self.held = [pydicom.dcmread(BytesIO(data)) for data in files]
        self.asked: Counter[str] = Counter()
        self.lost = ""
        self.hangs_up: Callable[[str], bool] = lambda _level: False
        self.listen = f"127.0.0.1:{free_port()}"
        self._mood, self._level = mood, ""

    def found(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = self._level = str(event.identifier.QueryRetrieveLevel)
        self.asked[level] += 1
        if status := self._mood(level, event):
            yield status, None
            return
        yield from ((0xFF00, one) for one in self._listed(event.identifier, level).values())

    def sent(self, event: evt.Event) -> None:
        data = event.pdu.encode()
        if _LISTED in data and _SUCCESS in data and self.hangs_up(self._level):
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)  # as when it is killed

    def got(self, event: evt.Event) -> Iterator[Any]:
        self.asked["GET"] += 1
        yield from self._given(event, self._mood("GET", event))

    def moved(self, event: evt.Event) -> Iterator[Any]:
        self.asked["MOVE"] += 1
        host, port = association.place_of(self.listen)
        yield (
            host,
            port,
            {"contexts": [build_context(self.held[0].SOPClassUID, self.held[0].file_meta.TransferSyntaxUID)]},
        )
        yield from self._given(event, self._mood("MOVE", event))

    def _given(self, event: evt.Event, status: int) -> Iterator[Any]:
        matching = [] if status else self._matching(event.identifier)
        yield max(1, len(matching))
        yield from ((0xFF00, one) for one in matching if one.SOPInstanceUID != self.lost)
        if status or any(one.SOPInstanceUID == self.lost for one in matching):
            yield status or 0xC000, None

    def _matching(self, identifier: Dataset) -> list[Dataset]:
        asked = {key: str(identifier.get(key) or "") for key in LEVELS.values()}
        return [
            one for one in self.held if all(not uid or str(one.get(key)) in _many(uid) for key, uid in asked.items())
        ]

    def _listed(self, identifier: Dataset, level: str) -> dict[str, Dataset]:
        listed: dict[str, Dataset] = {}
        for one in self._matching(identifier):
            made = listed.setdefault(str(one.get(LEVELS[level])), Dataset())
            for keyword in (*LEVELS.values(), "SOPClassUID", "Modality"):
                setattr(made, keyword, one.get(keyword))
            made.QueryRetrieveLevel = level
            made.NumberOfStudyRelatedInstances = int(made.get("NumberOfStudyRelatedInstances") or 0) + 1
        return listed


def _many(uid: str) -> list[str]:
    return uid.strip("[]").replace("'", "").replace("\\", ",").replace(" ", "").split(",")


@contextmanager
def serving(peer: Peer) -> Iterator[str]:
    ae, port = AE(ae_title="PEER"), free_port()
    for model in (Find, Get, Move):
        ae.add_supported_context(model)
    for context in StoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), association.syntaxes(), scu_role=True, scp_role=True)
    handlers: list[Any] = [
        (evt.EVT_C_FIND, peer.found), (evt.EVT_C_GET, peer.got), (evt.EVT_C_MOVE, peer.moved),
        (evt.EVT_PDU_SENT, peer.sent),
    ]  # fmt: skip
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.shutdown()


def config(peer: Peer, address: str, how: str, **more: object) -> DatasetConfig:
    place: dict[str, object] = {"address": address, "aet": "PEER", "calling": "EDGE", "retrieve": how, **more}
    if how == "move":
        place["listen"] = peer.listen
    return DatasetConfig.model_validate({"dimse": place})


def whole(root: Path, files: list[bytes]) -> bool:
    looking = Mirror(root)
    try:
        status = looking.status()
        return status["isolated"] == {} and bool(status["complete"]) and uids(looking.records) == named(files)
    finally:
        looking.close()


def _late(event: evt.Event) -> None:
    """As on a busy machine: the association's own thread, let go from where it stood, runs only a while later."""
    stands = event.assoc._reactor_checkpoint
    wait = stands.wait

    def late(timeout: float | None = None) -> bool:
        passed = wait(timeout)
        time.sleep(0.1)
        return passed

    stands.wait = late


def _asking(address: str, **more: Any) -> Any:
    ae = association.entity("EDGE", 20.0)
    ae.add_requested_context(Find)
    return association.associate(ae, address, "PEER", **more)


def _asked() -> Dataset:
    made = Dataset()
    made.QueryRetrieveLevel, made.StudyInstanceUID = "STUDY", ""
    return made


def _read_late(answers: Iterator[Any]) -> list[Any]:
    time.sleep(0.3)  # nor does who has asked
    return list(answers)


def test_no_answer_is_taken_by_the_associations_own_thread(tmp_path: Path) -> None:
    with serving(Peer(list(instances(5, studies=5)))) as address:
        link = _asking(address, handlers=[(evt.EVT_CONN_OPEN, _late)])
        lists = [_read_late(association.ask(link.send_c_find, _asked(), Find)) for _ in range(3)]
        link.release()
    assert [len(found) for found in lists] == [6] * 3, "each study, and the end of the list"


def test_an_association_that_ends_between_two_requests_is_a_place_that_does_not_answer(tmp_path: Path) -> None:
    peer = Peer(list(instances(2, studies=2)))
    peer.hangs_up = lambda _level: True
    with serving(peer) as address:
        link = _asking(address)
        assert len(list(association.ask(link.send_c_find, _asked(), Find))) == 3
        until(lambda: not link.is_established, "the other side's abort")
        with pytest.raises(UnavailableError, match=r"unavailable\.source"):
            association.ask(link.send_c_find, _asked(), Find)
        link.abort()


@pytest.mark.parametrize("how", [pytest.param("get", marks=pytest.mark.full), "move"])
def test_a_pull_goes_on_where_the_pacs_hung_up(tmp_path: Path, how: str) -> None:
    """After a list of series that it has sent; a list of studies and one of instances it fails outright."""
    files = list(instances(12, studies=4))
    turns = Counter[str]()

    def moody(what: str, _event: evt.Event) -> int:
        turns[what] += 1
        return 0xC000 if turns[what] == 2 and what in ("STUDY", "IMAGE") else 0

    peer = Peer(files, moody)
    peer.hangs_up = lambda level: level == "SERIES" and peer.asked[level] == 1
    with serving(peer) as address:
        pull(tmp_path / "m", next(places(config(peer, address, how))))
    assert whole(tmp_path / "m", files)
    assert peer.asked["STUDY"] == 4  # none of the three went by unseen


@pytest.mark.parametrize("how", [pytest.param("move", marks=pytest.mark.full), "get"])
def test_nothing_is_set_aside_while_the_pacs_gives_nothing_at_all(tmp_path: Path, how: str) -> None:
    """It lists all that it has, and for more rounds than a record is asked for can give none of it."""
    files = list(instances(6, studies=3))
    peer = Peer(files, lambda what, _event: 0xC000 if what == how.upper() and peer.asked["STUDY"] <= 4 else 0)
    with serving(peer) as address:
        pull(tmp_path / "m", next(places(config(peer, address, how))))
    assert whole(tmp_path / "m", files)
    assert peer.asked["STUDY"] == 5


@pytest.mark.parametrize("how", [pytest.param("get", marks=pytest.mark.full), "move"])
def test_what_alone_is_not_given_is_set_aside(tmp_path: Path, how: str) -> None:
    files = list(instances(6, studies=3))
    peer = Peer(files)
    peer.lost = named(files)[0]
    with serving(peer) as address:
        pull(tmp_path / "m", next(places(config(peer, address, how))))
    looking = Mirror(tmp_path / "m")
    assert looking.status()["isolated"] == {"refused": 1}
    assert looking.status()["complete"]
    assert uids(looking.records) == named(files)[1:]
    looking.close()


# --- whoever else calls where a PACS moves to


def _calling(address: str, title: str) -> Any:
    """An association asked for by somebody with a title: pynetdicom's own, without a bound of ours."""
    ae = AE(ae_title=title)
    ae.requested_contexts = StoragePresentationContexts
    host, port = association.place_of(address)
    return ae.associate(host, port, ae_title="EDGE")


def _other(study: str) -> Dataset:
    made = pydicom.dcmread(BytesIO(next(instances(1))))
    made.StudyInstanceUID, made.SOPInstanceUID, made.PatientID = study, "1.9.9", "STRANGER"
    made.file_meta.MediaStorageSOPInstanceUID = "1.9.9"
    return made


def test_while_a_pacs_moves_nobody_else_brings_anything(tmp_path: Path) -> None:
    files, told = list(instances(4, studies=2)), dict[str, object]()

    def moody(what: str, _event: evt.Event) -> int:
        if what == "MOVE" and not told:
            stranger = _calling(peer.listen, "STRANGER")
            told["rejected"] = stranger.is_rejected
            false = _calling(peer.listen, "PEER")
            told["foreign"] = false.send_c_store(_other("1.9")).Status
            told["nameless"] = false.send_c_store(_other("")).Status
            false.release()
        return 0

    peer = Peer(files, moody)
    with serving(peer) as address:
        pull(tmp_path / "m", next(places(config(peer, address, "move"))))
    assert told == {"rejected": True, "foreign": 0x0124, "nameless": 0x0124}
    looking = Mirror(tmp_path / "m")
    assert looking.status()["isolated"] == {"foreign": 1}, "counted"
    assert uids(looking.records) == named(files)
    looking.close()
    assert all(b"STRANGER" not in path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file())


def test_nothing_is_taken_while_nothing_is_asked_for(tmp_path: Path) -> None:
    peer = Peer(list(instances(1)))
    place = config(peer, "127.0.0.1:9", "move")
    origin = next(places(place)).dial(lambda: False, tmp_path)
    link = _calling(peer.listen, "PEER")
    assert link.send_c_store(_other("1.2.3.10")).Status == 0x0124
    link.release()
    origin.close()


def test_a_pacs_that_moves_by_another_title_is_let_in_when_the_site_names_it(tmp_path: Path) -> None:
    files = list(instances(2, studies=1))
    peer = Peer(files)
    with serving(peer) as address:
        with pytest.raises(UnavailableError, match="callers"):
            pull(tmp_path / "m", next(places(config(peer, address, "move", aet="FRONT", patience_s=0))))
        pull(tmp_path / "m", next(places(config(peer, address, "move", aet="FRONT", callers=["PEER"]))))
    assert whole(tmp_path / "m", files)


@contextmanager
def _storing(store: Callable[[Any], int]) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    server = association.serve(association.entity("EDGE", 3600.0), address, store)
    try:
        yield address
    finally:
        server.shutdown()


def test_an_instance_without_an_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[int] = []
    with _storing(lambda event: stored.append(len(event.encoded_dataset())) or 0) as address:
        monkeypatch.setattr(association, "MAX_FILE_BYTES", 1 << 20)
        small, large = _other("1.9"), _other("1.9")
        large.PixelData = bytes(4 << 20)
        link = _calling(address, "CT1")
        assert link.send_c_store(small).Status == 0
        assert "Status" not in link.send_c_store(large)
        until(lambda: link.is_aborted, "the abort")
    assert len(stored) == 1


def test_the_head_of_a_pdu_makes_nobody_wait_for_four_gigabytes() -> None:
    with _storing(lambda _event: 0) as address, socket.create_connection(association.place_of(address)) as link:
        link.settimeout(300)
        link.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF))
        assert link.recv(1 << 10) == b"", "the connection is closed"


def test_requests_that_do_not_wait_for_an_answer_end_the_association() -> None:
    from pynetdicom.dimse_primitives import C_STORE

    busy, stored = threading.Event(), []

    def store(event: Any) -> int:
        busy.wait()
        stored.append(event)
        return 0

    with _storing(store) as address:
        link = _calling(address, "CT1")
        made = _other("1.9")
        context = next(one for one in link.accepted_contexts if one.abstract_syntax == made.SOPClassUID)
        made.file_meta = None
        from pynetdicom.dsutils import encode

        for at in range(200):
            request = C_STORE()
            request.MessageID, request.Priority = at + 1, 2
            request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
            request.DataSet = BytesIO(encode(made, True, True) or b"")
            link.dimse.send_msg(request, context.context_id)
        try:
            until(lambda: link.is_aborted, "the abort", 600)
        finally:
            busy.set()
    assert len(stored) < 200


def test_what_waits_lies_in_a_file_without_a_name_and_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "_IN_MEMORY_BYTES", 10)
    waiting = Inbox(tmp_path, 100)
    for _ in range(2):  # room is there again when all was taken
        for at in range(10):
            waiting.put(f"1.{at}", bytes([at]) * 10)
        with pytest.raises(StorageError, match=r"storage\.full"):
            waiting.put("1.11", b"x")
        assert list(tmp_path.iterdir()) == []
        assert list(waiting.taken()) == [(f"1.{at}", bytes([at]) * 10) for at in range(10)]
    waiting.put("1.12", b"x")
    waiting.close()
    assert list(waiting.taken()) == []
    with pytest.raises(StorageError):
        waiting.put("1.13", b"x")
