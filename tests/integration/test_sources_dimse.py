"""A PACS by DIMSE that has moods: a real peer on loopback which hangs up, fails or is slow at a chosen moment."""

from __future__ import annotations

import socket
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
from edge.sources import association
from edge.sources.mirror import Mirror
from edge.sources.pulling import places, pull
from protocol.errors import UnavailableError
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
