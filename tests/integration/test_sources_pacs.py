"""PACS and modalities for real: Orthanc restarted under a pull, DCMTK pushing into a receiver that is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from corsia.fleet import free_port
from corsia.synthetic import ct_series
from edge.config import DatasetConfig
from edge.sources import association
from edge.sources.mirror import Mirror
from edge.sources.places import Receiver
from edge.sources.pulling import places, pull
from edge.sources.receiver import Listening
from protocol.errors import AuthenticationError, UnavailableError
from tests.sourcekit import LOGIN, Orthanc, answers, need, private, until

ROOT = Path(__file__).parents[2]
FULL = (pytest.mark.full, pytest.mark.timeout(1800))


def instances(count: int, studies: int = 10) -> Iterator[bytes]:
    """Small images of many studies, each with UIDs of its own: one file, whose names are put in as bytes."""
    base = pydicom.dcmread(BytesIO(ct_series({"PatientID": "p10", "PatientName": "X"}, seed=1, size=8, slices=1)[0]))
    base.StudyInstanceUID, base.SeriesInstanceUID = "1.2.3.10", "1.2.3.10.1"
    base.SOPInstanceUID = base.file_meta.MediaStorageSOPInstanceUID = "1.2.3.10.1.10000"
    buffer = BytesIO()
    base.save_as(buffer)
    for at in range(count):
        study = str(10 + at % studies).encode()
        made = buffer.getvalue().replace(b"1.10000", f"1.{10001 + at}".encode()).replace(b"1.2.3.10", b"1.2.3." + study)
        yield made.replace(b"p10", b"p" + study)


def uids(folder: Path) -> list[str]:
    return sorted(
        str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in folder.iterdir()
    )


def named(files: list[bytes]) -> list[str]:
    return sorted(str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID) for data in files)


@pytest.fixture(name="pacs", scope="module")
def _pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    server = Orthanc(tmp_path_factory.mktemp("pacs"))
    server.start()
    yield server
    server.stop()


def web(pacs: Orthanc, folder: Path, **more: object) -> DatasetConfig:
    auth = private(folder / "auth", LOGIN)
    return DatasetConfig.model_validate({"dicomweb": {"url": pacs.url, "auth_file": auth, **more}})


def dimse(pacs: Orthanc, how: str = "get", **more: object) -> DatasetConfig:
    place: dict[str, object] = {"address": f"127.0.0.1:{pacs.dicom_port}", "aet": "ORTHANC", "calling": "EDGE"}
    if how == "move":
        place |= {"retrieve": "move", "listen": f"127.0.0.1:{pacs.move_port}"}
    return DatasetConfig.model_validate({"dimse": place | more})


@pytest.mark.parametrize(
    ("how", "count"),
    [
        ("web", 1000), ("get", 300), ("move", 300), pytest.param("web", 5000, marks=FULL),
        pytest.param("get", 5000, marks=FULL), pytest.param("move", 1000, marks=FULL),
    ],
)  # fmt: skip
def test_nothing_is_lost_while_the_pacs_is_restarted(
    tmp_path: Path, how: str, count: int, request: pytest.FixtureRequest
) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    request.addfinalizer(pacs.stop)
    pacs.start()
    sent = list(instances(count))
    pacs.put(*sent)
    place = next(places(web(pacs, tmp_path) if how == "web" else dimse(pacs, how)))
    looking, restarted = Mirror(tmp_path / "m"), threading.Event()

    def halted() -> bool:
        """An Orthanc that is told to end serves on for seconds: the pull's last quarter waits for the restarts."""
        if not restarted.is_set() and looking.status()["records"] >= count - count // 4:
            restarted.wait()
        return False

    with ThreadPoolExecutor(1) as pool, closing(looking):
        pulled = pool.submit(pull, tmp_path / "m", place, halted=halted)
        try:
            for share, with_what in ((5, signal.SIGTERM), (2, signal.SIGKILL)):
                until(lambda: looking.status()["records"] >= count // share or pulled.done(), "part of the pull", 1200)  # noqa: B023
                if pulled.done():
                    pytest.fail(f"it ended before the restart: {pulled.result()}")
                pacs.stop(with_what)
                pacs.start()
        finally:
            restarted.set()
        assert pulled.result().kept == count
        assert looking.status()["isolated"] == {}
        assert uids(looking.records) == named(sent)


def test_what_comes_and_goes_at_the_pacs(pacs: Orthanc, tmp_path: Path) -> None:
    sent = list(instances(6, studies=2))
    for data in sent[:4]:
        pacs.put(data)
    place = next(places(web(pacs, tmp_path)))
    assert pull(tmp_path / "m", place).kept == 4
    for data in sent[4:]:
        pacs.put(data)
    assert pull(tmp_path / "m", place).kept == 2
    pacs.delete("1.2.3.10.1.10001")
    assert pull(tmp_path / "m", place).gone == 0
    assert pull(tmp_path / "m", place, full=True).gone == 1
    assert uids(tmp_path / "m" / "records") == named(sent[1:])
    narrow = next(places(web(pacs, tmp_path, modalities=["MR"])))
    assert pull(tmp_path / "mr", narrow).kept == 0
    later = next(places(web(pacs, tmp_path, since="2150-01-01")))
    assert pull(tmp_path / "later", later).kept == 0


def test_a_wrong_password_and_a_wrong_title_are_told_apart_from_silence(pacs: Orthanc, tmp_path: Path) -> None:
    wrong = web(pacs, tmp_path).dicomweb
    assert wrong is not None
    wrong = wrong.model_copy(update={"auth_file": private(tmp_path / "bad", "edge:WRONG-SECRET")})
    with pytest.raises(AuthenticationError, match=r"auth\.source") as error:
        pull(tmp_path / "m", next(places(DatasetConfig(dicomweb=wrong))))
    assert "WRONG" not in str(error.value)
    dimse = {"address": f"127.0.0.1:{pacs.dicom_port}", "aet": "SOMEONE", "calling": "EDGE", "patience_s": 0}
    with pytest.raises(AuthenticationError, match=r"auth\.source"):
        pull(tmp_path / "m", next(places(DatasetConfig.model_validate({"dimse": dimse}))))
    silent = dimse | {"address": f"127.0.0.1:{free_port()}"}
    with pytest.raises(UnavailableError, match=r"unavailable\.source"):
        pull(tmp_path / "m", next(places(DatasetConfig.model_validate({"dimse": silent}))))


def test_a_pacs_that_cannot_reach_us_is_asked_later_and_nothing_is_set_aside(pacs: Orthanc, tmp_path: Path) -> None:
    sent = list(instances(4, studies=2))
    for data in sent:
        pacs.put(data)
    elsewhere = dimse(pacs, "move", listen=f"127.0.0.1:{free_port()}", patience_s=0)
    with pytest.raises(UnavailableError, match=r"unavailable\.source"):
        pull(tmp_path / "m", next(places(elsewhere)))
    assert pull(tmp_path / "m", next(places(dimse(pacs, "move")))).kept >= len(sent)
    looking = Mirror(tmp_path / "m")
    assert looking.status()["isolated"] == {}
    assert set(named(sent)) <= set(uids(looking.records))
    looking.close()


def test_what_the_pacs_lists_and_cannot_give_is_set_aside_by_itself(tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    sent = list(instances(6, studies=2))
    try:
        pacs.start()
        for data in sent:
            pacs.put(data)
        pacs.lose("1.2.3.11.1.10004")
        pacs.stop()  # which forgets what it has in memory
        pacs.start()
        ways = {"web": web(pacs, tmp_path, patience_s=20), "get": dimse(pacs, patience_s=20)}
        ways["move"] = dimse(pacs, "move", patience_s=20)
        for how, dataset in ways.items():
            pull(tmp_path / how, next(places(dataset)))
    finally:
        pacs.stop()
    for how in ways:
        looking = Mirror(tmp_path / how)
        assert looking.status()["isolated"] == {"refused": 1}, how
        assert looking.status()["complete"]
        rest = sent[::2] if how == "web" else [*sent[:3], *sent[4:]]  # Orthanc does not list that series by QIDO
        assert uids(looking.records) == named(rest), how
        looking.close()


@contextmanager
def stingy(studies: int, most: int, day: int) -> Iterator[str]:
    """A PACS that lists studies, `day` of them a day, and gives up where they are more than `most`."""
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

    def found(event: evt.Event) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        low, _, high = str(event.identifier.get("StudyDate", "")).partition("-")
        dates = [(f"1.2.3.{at}", f"20{10 + at // day // 12:02d}{1 + at // day % 12:02d}07") for at in range(studies)]
        inside = [uid for uid, when in dates if (not low or low <= when) and (not high or when <= high)]
        for uid in inside[:most]:
            one = pydicom.Dataset()
            one.QueryRetrieveLevel, one.StudyInstanceUID, one.NumberOfStudyRelatedInstances = "STUDY", uid, 1
            yield 0xFF00, one
        if len(inside) > most:
            yield 0xA700, None

    ae, port = AE(ae_title="STINGY"), free_port()
    ae.add_supported_context(Find)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, found)])
    assert server is not None
    yield f"127.0.0.1:{port}"
    server.shutdown()


def test_a_pacs_that_lists_not_so_many_at_once_is_asked_by_time(tmp_path: Path) -> None:
    def count(address: str, **more: object) -> int:
        place = {"address": address, "aet": "STINGY", "calling": "EDGE", **more}
        origin = next(places(DatasetConfig.model_validate({"dimse": place}))).dial(lambda: False)
        try:
            return origin.count()
        finally:
            origin.close()

    with stingy(40, most=5, day=3) as address:
        assert count(address) == 40
        assert count(address, since="2010-02-01", until="2010-04-30") == 9
    with stingy(40, most=2, day=3) as address, pytest.raises(UnavailableError, match=r"unavailable\.source"):
        count(address)


@contextmanager
def dcmtk(folder: Path, move_port: int) -> Iterator[str]:
    """DCMTK's PACS, which moves what EDGE asks for to a port."""
    program, port = need("dcmqrscp", "dcmtk"), free_port()
    (folder / "held").mkdir(parents=True)
    (folder / "cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nedge = (EDGE, 127.0.0.1, {move_port})\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQR {folder / 'held'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(folder / "cfg")], stdout=log, stderr=log)
    try:
        until(lambda: answers(port), "dcmqrscp")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_the_pacs_of_dcmtk_moves_by_its_own_title(tmp_path: Path) -> None:
    sent, port = list(instances(8, studies=2)), free_port()
    with dcmtk(tmp_path / "pacs", port) as address:
        assert push(address, written(tmp_path / "out", sent), called="DCMQR").returncode == 0
        place = {"address": address, "aet": "DCMQR", "calling": "EDGE", "retrieve": "move"}
        place["listen"] = f"127.0.0.1:{port}"
        assert pull(tmp_path / "m", next(places(DatasetConfig.model_validate({"dimse": place})))).kept == 8
    assert uids(tmp_path / "m" / "records") == named(sent)


# --- pushed by modalities


@contextmanager
def listening(root: Path, **more: object) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    mirror = Mirror(root)
    receiver = Listening(Receiver.model_validate({"listen": address, "callers": ["CT1"], **more}), mirror)
    yield address
    receiver.close()
    mirror.close()


def push(address: str, folder: Path, caller: str = "CT1", called: str = "CORSIA") -> subprocess.CompletedProcess[str]:
    program = need("storescu", "dcmtk")
    port = address.rpartition(":")[2]
    words = [program, "-R", "-aet", caller, "-aec", called, "127.0.0.1", port, "+sd", str(folder)]
    env = {**os.environ, "TCP_NODELAY": "1"}
    return subprocess.run(words, capture_output=True, text=True, env=env, timeout=120)


def written(folder: Path, files: list[bytes]) -> Path:
    folder.mkdir()
    for at, data in enumerate(files):
        (folder / f"{at}.dcm").write_bytes(data)
    return folder


def odd(modality: str, uid: str) -> bytes:
    one = pydicom.dcmread(BytesIO(next(instances(1))))
    one.Modality, one.SOPInstanceUID = modality, uid
    one.file_meta.MediaStorageSOPInstanceUID = uid
    buffer = BytesIO()
    one.save_as(buffer)
    return buffer.getvalue()


def test_only_named_callers_push_and_the_unknown_is_set_aside(tmp_path: Path) -> None:
    sent = list(instances(12))
    folder = written(tmp_path / "out", [*sent, odd("ZZ", "1.9.1")])
    with listening(tmp_path / "m") as address:
        assert push(address, folder, caller="STRANGER").returncode != 0
        assert push(address, folder, called="OTHER").returncode != 0
        assert push(address, folder).returncode == 0
        again = push(address, folder)  # a sender that is not sure sends again
        assert again.returncode == 0, again.stderr
    mirror = Mirror(tmp_path / "m")
    assert mirror.status() | {"bytes": 0, "complete": ""} == {
        "records": 12, "bytes": 0, "isolated": {"unknown-modality": 1}, "complete": "",
    }  # fmt: skip
    assert uids(mirror.records) == named(sent)
    digests = {hashlib.sha256(pydicom.dcmread(path).PixelData).hexdigest() for path in mirror.records.iterdir()}
    assert digests == {hashlib.sha256(pydicom.dcmread(BytesIO(data)).PixelData).hexdigest() for data in sent}


def test_a_full_store_says_so_and_takes_it_later(tmp_path: Path) -> None:
    folder = written(tmp_path / "out", list(instances(4)))
    mirror = Mirror(tmp_path / "m", max_bytes=100)
    address = f"127.0.0.1:{free_port()}"
    receiver = Listening(Receiver.model_validate({"listen": address, "callers": ["CT1"]}), mirror)
    refused = push(address, folder)
    receiver.close()
    assert "A700" in refused.stdout + refused.stderr or refused.returncode != 0
    assert mirror.status()["records"] == 0
    mirror.close()
    with listening(tmp_path / "m") as address:
        assert push(address, folder).returncode == 0
    assert len(uids(tmp_path / "m" / "records")) == 4


_RECEIVER = """
import sys, threading
from pathlib import Path
from edge.sources.mirror import Mirror
from edge.sources.places import Receiver
from edge.sources.receiver import Listening
Listening(Receiver.model_validate({"listen": sys.argv[2], "callers": ["CT1"]}), Mirror(Path(sys.argv[1])))
print("listening", flush=True)
threading.Event().wait()
"""


def test_what_was_answered_as_stored_outlives_a_kill(tmp_path: Path) -> None:
    sent = list(instances(30))
    folder, address = written(tmp_path / "out", sent), f"127.0.0.1:{free_port()}"
    env = {**os.environ, "CORSIA_FAULTS": f"source.files#9={tmp_path / 'killed'}"}
    words = [sys.executable, "-c", _RECEIVER, str(tmp_path / "m"), address]
    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        assert push(address, folder).returncode != 0
        assert process.wait(60) == -9
    mirror = Mirror(tmp_path / "m")
    assert mirror.status()["records"] == 8  # those that the sender was told of
    mirror.close()
    with listening(tmp_path / "m") as address:
        assert push(address, folder).returncode == 0
    assert uids(tmp_path / "m" / "records") == named(sent)


def test_no_connection_waits_for_nagle(tmp_path: Path) -> None:
    from pynetdicom import evt

    seen: list[int] = []

    def look(event: evt.Event) -> None:
        link = event.assoc.dul.socket.socket
        seen.append(link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    ae = association.entity("CORSIA", 10.0)
    address = f"127.0.0.1:{free_port()}"
    server = association.serve(ae, address, lambda _event: 0)
    server.bind(evt.EVT_ACCEPTED, look)
    asking = association.entity("CT1", 10.0)
    asking.add_requested_context("1.2.840.10008.1.1")
    link = association.associate(asking, address, "CORSIA", handlers=[(evt.EVT_ACCEPTED, look)])
    assert link.send_c_echo().Status == 0
    link.release()
    server.shutdown()
    assert seen == [1, 1]
