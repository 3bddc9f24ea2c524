"""A PACS by DICOMweb that has moods: a real server on loopback which lists what it has and does not always give it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom

from edge.config import DatasetConfig
from edge.sources.mirror import Mirror
from edge.sources.pulling import places, pull
from tests.integration.test_sources_pacs import instances, named, uids

TAGS = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}


class Peer:
    """A PACS; `gives` says whether it gives an instance now, `rounds` how often its studies were listed from the first.

    Only a pull lists them with their counts.
    """

    def __init__(self, files: list[bytes]) -> None:
        self.held = {str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID): data for data in files}
        self.gives: Callable[[str], bool] = lambda _uid: True
        self.rounds = 0

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, str, bytes]:
        words = path.strip("/").split("/")
        asked = dict(zip(words[::2], words[1::2], strict=False))
        if len(words) == 6:
            given = self.gives(words[5])
            return (200, "application/dicom", self.held[words[5]]) if given else (500, "text/plain", b"")
        level, offset = words[-1], int(query["offset"][0])
        self.rounds += level == "studies" and offset == 0 and "includefield" in query
        listed = list(self._listed(level, asked).values())[offset:]
        return 200, "application/dicom+json", json.dumps(listed).encode()

    def _listed(self, level: str, asked: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for data in self.held.values():
            one = pydicom.dcmread(BytesIO(data))
            if all(str(one.get(TAGS[key])) == uid for key, uid in asked.items()):
                tag = f"{pydicom.datadict.tag_for_keyword(TAGS[level]):08X}"
                uid = str(one.get(TAGS[level]))
                made = found.setdefault(
                    uid, {tag: {"vr": "UI", "Value": [uid]}, "00201208": {"vr": "IS", "Value": [0]}}
                )
                made["00201208"]["Value"][0] += 1
        return found


@contextmanager
def serving(peer: Peer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            status, kind, body = peer.answer(asked.path, parse_qs(asked.query))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def pulled(root: Path, url: str) -> dict[str, Any]:
    pull(root, next(places(DatasetConfig.model_validate({"dicomweb": {"url": url}}))))
    looking = Mirror(root)
    try:
        return looking.status()
    finally:
        looking.close()


def test_nothing_is_set_aside_while_the_pacs_gives_nothing_at_all(tmp_path: Path) -> None:
    """It lists all that it has, and for more rounds than a record is asked for can give none of it."""
    files = list(instances(6, studies=3))
    peer = Peer(files)
    peer.gives = lambda _uid: peer.rounds > 4
    with serving(peer) as url:
        status = pulled(tmp_path / "m", url)
    assert (status["isolated"], peer.rounds) == ({}, 5)
    assert status["complete"]
    assert uids(tmp_path / "m" / "records") == named(files)


def test_what_alone_is_not_given_is_set_aside(tmp_path: Path) -> None:
    files = list(instances(6, studies=3))
    peer = Peer(files)
    lost = named(files)[0]
    peer.gives = lambda uid: uid != lost
    with serving(peer) as url:
        status = pulled(tmp_path / "m", url)
    assert status["isolated"] == {"refused": 1}
    assert status["complete"]
    assert uids(tmp_path / "m" / "records") == named(files)[1:]
