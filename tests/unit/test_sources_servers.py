"""What hospitals' servers do besides the standard: names used twice, links of all kinds, answers too large."""

from __future__ import annotations

import gzip
import json
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from edge.sources import fhirexport, web
from edge.sources.dicomweb import DicomwebOrigin
from edge.sources.fhirexport import FhirExport
from edge.sources.fhirserver import FhirSearch
from edge.sources.mirror import Mirror
from edge.sources.places import Address, Dicomweb, FhirServer
from edge.sources.pulling import pause_s
from protocol.errors import InputError, StorageError


class Server:
    """Answers what is said of an address; 404 else."""

    def __init__(self) -> None:
        self.says: dict[str, tuple[int, dict[str, str], bytes]] = {}
        outer = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = outer.says.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.url = f"http://127.0.0.1:{self.server.server_port}/base"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def say(self, path: str, body: Any, status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.says[f"/base/{path}"] = (status, {name.replace("_", "-"): told for name, told in headers.items()}, data)


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def fhir(server: Server, mode: str) -> FhirServer:
    return FhirServer.model_validate({"url": server.url, "mode": mode, "types": ["Patient"], "page_size": 2})


def patients(*names: str) -> list[dict[str, str]]:
    return [{"resourceType": "Patient", "id": name} for name in names]


def test_a_file_that_is_called_as_one_of_the_last_export_is_taken(server: Server, tmp_path: Path) -> None:
    mirror, asked = Mirror(tmp_path / "m"), "$export?_type=Patient&_outputFormat=application%2Ffhir%2Bndjson"
    for day, since in (("01", ""), ("02", "&_since=2024-02-01T00%3A00%3A00Z")):
        files = [{"type": "Patient", "url": f"{server.url}/Patient.ndjson"}]
        server.say(asked + since, b"", 202, Content_Location=f"{server.url}/job")
        server.say("job", {"transactionTime": f"2024-02-{day}T00:00:00Z", "output": files})
        server.say("Patient.ndjson", json.dumps(patients(f"p{day}")[0]).encode() + b"\n\n")
        assert mirror.pull(FhirExport(fhir(server, "export"))).kept == 1
    assert mirror.status()["records"] == 2


@pytest.mark.parametrize("link", ["?page=2", "Patient?page=2", "/base/Patient?page=2", "{url}/Patient?page=2"])
def test_the_next_page_is_found_however_it_is_linked(server: Server, tmp_path: Path, link: str) -> None:
    def page(names: tuple[str, ...], *links: dict[str, str]) -> dict[str, Any]:
        return {"resourceType": "Bundle", "entry": [{"resource": one} for one in patients(*names)], "link": links}

    following = {"relation": "next", "url": link.format(url=server.url)}
    server.say("Patient?_sort=_lastUpdated&_count=2", page(("a", "b"), following))
    server.say("Patient?page=2", page(("c",)))
    assert Mirror(tmp_path / "m").pull(FhirSearch(fhir(server, "search"))).kept == 3


@pytest.mark.parametrize("link", ["http://[::1/fhir", "http://elsewhere.example/fhir", "file:///etc/passwd"])
def test_a_link_to_nowhere_is_an_error_of_ours(server: Server, link: str) -> None:
    asking = web.Web(fhir(server, "search"))
    with pytest.raises(InputError, match=r"input\.source"):
        asking.get(link, accept="application/json")
    asking.close()


def test_an_instance_too_large_is_set_aside_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(path: str, tag: str, *uids: str) -> None:
        matches = [{tag: {"vr": "UI", "Value": [uid]}} for uid in uids]
        first, _, more = path.partition("&")
        server.say(f"{first}?{more}limit=200&offset=0", matches)
        server.say(f"{first}?{more}limit=200&offset={len(uids)}", [])

    listed("studies&includefield=00201208&", "0020000D", "1.1")
    listed("studies/1.1/series&includefield=00080060&", "0020000E", "1.1.1")
    listed("studies/1.1/series/1.1.1/instances", "00080018", "1.1.1.1", "1.1.1.2")
    for number, body in (("1", b"x" * 5000), ("2", b"no image")):
        server.say(f"studies/1.1/series/1.1.1/instances/1.1.1.{number}", body, Content_Type="application/dicom")
    monkeypatch.setattr(web, "MAX_FILE_BYTES", 4000)
    tally = Mirror(tmp_path / "m").pull(DicomwebOrigin(Dicomweb.model_validate({"url": server.url})))
    assert dict(tally.isolated) == {"too-large": 1, "unreadable": 1}


def test_a_place_that_says_when_to_come_back_is_not_asked_before() -> None:
    assert min(pause_s(0.25, 120.0) for _ in range(100)) == 120.0
    assert 5.0 <= pause_s(10.0, 0.0) <= 10.0


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_an_address_has_a_port_that_there_is(port: int) -> None:
    address = TypeAdapter(Address)
    for good in (1, 104, 11112, 65535):
        assert address.validate_python(f"pacs.example:{good}") == f"pacs.example:{good}"
    with pytest.raises(ValidationError):
        address.validate_python(f"pacs.example:{port}")


# --- files of an export


def exported(server: Server, body: bytes, url: str = "", **headers: str) -> FhirServer:
    """A server whose export is one file of patients."""
    asked = "$export?_type=Patient&_outputFormat=application%2Ffhir%2Bndjson"
    server.say(asked, b"", 202, Content_Location=f"{server.url}/job")
    listed = [{"type": "Patient", "url": url or f"{server.url}/Patient.ndjson"}]
    server.say("job", {"transactionTime": "2024-02-01T00:00:00Z", "output": listed})
    server.say("Patient.ndjson", body, **headers)
    return fhir(server, "export")


def ndjson(count: int, size: int = 0) -> bytes:
    made = [{**one, "gender": "x" * size} for one in patients(*(f"p{at}" for at in range(count)))]
    return b"\n".join(json.dumps(one).encode() for one in made)


def test_a_file_of_an_export_is_not_held(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhirexport, "_PART_BYTES", 1 << 20)
    origin, known = FhirExport(exported(server, ndjson(64, 1 << 20)), folder=tmp_path), Mirror(tmp_path / "m")
    taken = 0
    tracemalloc.start()
    try:
        for page in origin.pages(known):
            for item in page.items:
                taken += len(getattr(item, "keys", ()))
                del item
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
        origin.close()
        known.close()
    assert taken == 64
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_line_without_an_end_is_set_aside_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fhirexport, "_MAX_LINE_BYTES", 1000)
    edges = [json.dumps(one | {"gender": "x" * 930}).encode() for one in patients("a")]
    body = b"\n".join([*edges, b"x" * 5000, ndjson(1), b" ", b"{no", b"y" * 2000])
    mirror = Mirror(tmp_path / "m")
    tally = mirror.pull(FhirExport(exported(server, body)))
    assert (tally.kept, dict(tally.isolated)) == (2, {"too-large": 2, "unreadable": 1})
    mirror.close()


def test_a_file_packed_by_content_encoding_is_taken(server: Server, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    place = exported(server, gzip.compress(ndjson(3)), Content_Encoding="gzip")
    assert mirror.pull(FhirExport(place)).kept == 3
    mirror.close()


@pytest.mark.parametrize("why", ["packed", "elsewhere", "large"])
def test_a_file_of_an_export_that_cannot_be_taken_has_a_code_of_its_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(web, "MAX_FILE_BYTES", 4000)
    body = {"packed": gzip.compress(ndjson(2)), "elsewhere": b"", "large": ndjson(2, 3000)}[why]
    mirror = Mirror(tmp_path / "m")
    place = exported(server, body, "http://127.0.0.2:9/ROSSI.ndjson" if why == "elsewhere" else "")
    with pytest.raises(InputError, match=r"input\.export") as error:
        mirror.pull(FhirExport(place, folder=mirror.incoming))
    assert "Content-Encoding" in error.value.hint
    assert "ROSSI" not in str(error.value)
    assert list(mirror.incoming.iterdir()) == []
    assert mirror.status()["records"] == 0
    mirror.close()


def test_a_full_disk_is_told_as_one(server: Server) -> None:
    asking = web.Web(exported(server, ndjson(2)))
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(StorageError, match=r"storage\.full"):
        asking.fetch("Patient.ndjson", full, accept="application/fhir+ndjson")
    asking.close()
