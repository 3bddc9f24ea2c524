"""The mirror of a place: what is kept, known, set aside and forgotten, whatever the place does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.sources.mirror import Halted, Mirror, is_complete
from edge.sources.origin import REFUSED, Bad, Gone, Known, Page, Part
from edge.sources.turns import reading, reading_pulled
from protocol.errors import StorageError, UnavailableError


class Place:
    """An origin of numbered records; some refuse, and the line may break after so many reads."""

    def __init__(self, keys: list[str], *, bad: dict[str, str] | None = None, breaks_after: int = 10**9) -> None:
        self.keys, self.bad, self.left = keys, bad or {}, breaks_after
        self.reads: list[str] = []
        self.listed: list[int] = []

    def pages(self, known: Known) -> Iterator[Page]:
        for at in range(0, len(self.keys), 10):
            some = self.keys[at : at + 10]
            if known.mark(f"page{at}") != str(len(some)):
                self.listed.append(at)
                yield Page(mark=f"page{at}", version=str(len(some)), items=self._items(some, known))

    def _items(self, keys: list[str], known: Known) -> Iterator[Part | Bad]:
        for key in keys:
            if known.has(key):
                continue
            if self.left == 0:
                raise UnavailableError("unavailable.source")
            self.left -= 1
            self.reads.append(key)
            if key in self.bad:
                yield Bad(key=key, reason=self.bad[key], data=key.encode())
            else:
                yield Part(keys=(key,), data=f"data of {key}".encode(), suffix=".dcm")

    def close(self) -> None:
        pass


KEYS = [f"1.2.{n}" for n in range(35)]


def files(mirror: Mirror) -> list[bytes]:
    return sorted(path.read_bytes() for path in mirror.records.iterdir())


def test_a_broken_line_costs_nothing_that_was_read(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    first = Place(KEYS, breaks_after=17)
    with pytest.raises(UnavailableError):
        mirror.pull(first)
    assert mirror.status()["records"] == 17
    assert mirror.status()["complete"] == ""
    second = Place(KEYS)
    assert mirror.pull(second).kept == 18
    assert second.reads == KEYS[17:]
    assert files(mirror) == sorted(f"data of {key}".encode() for key in KEYS)
    assert mirror.pull(third := Place([*KEYS, "1.2.99"])).kept == 1
    assert third.reads == ["1.2.99"]


def test_a_bad_record_is_set_aside_once_and_a_refused_one_asked_for_again(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    bad = {"1.2.3": "empty-shell", "1.2.12": REFUSED}
    tally = mirror.pull(Place(KEYS, bad=bad))
    assert tally.kept == 33
    assert dict(tally.isolated) == {"empty-shell": 1, REFUSED: 1}
    assert not mirror.status()["complete"]  # a record is still to come
    assert mirror.pull(again := Place(KEYS, bad={"1.2.3": "empty-shell"})).kept == 1
    assert again.reads == ["1.2.12"]
    assert mirror.status()["isolated"] == {"empty-shell": 1}
    assert [path.read_bytes() for path in mirror.aside.iterdir()] == [b"1.2.3"]
    for _ in range(3):
        tally = mirror.pull(Place(["9.9"], bad={"9.9": REFUSED}))
    assert tally.refused == 0  # after the third time it is set aside for good
    assert mirror.status()["complete"]


def test_a_full_pull_forgets_what_is_gone(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.pull(Place(KEYS, bad={"1.2.3": "empty-shell"}))
    tally = mirror.pull(Place(KEYS[10:]), full=True)
    assert tally.gone == 9
    assert mirror.status()["records"] == 25
    assert mirror.status()["isolated"] == {}
    assert len(files(mirror)) == 25
    assert list(mirror.aside.iterdir()) == []


def test_a_full_pull_that_is_broken_off_goes_on_and_forgets_no_more_than_is_gone(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.pull(Place(KEYS[:15]))
    with pytest.raises(UnavailableError):
        mirror.pull(Place(KEYS[5:], breaks_after=10), full=True)
    assert mirror.pull(again := Place(KEYS[5:]), full=True).gone == 5
    assert again.listed == [20]  # a server with one export at a time is not asked for another
    assert mirror.status()["records"] == 30
    assert mirror.pull(anew := Place(KEYS[6:]), full=True).gone == 1
    assert anew.listed == [0, 10, 20]


def test_a_place_that_lists_nothing_loses_nothing_until_it_is_said_to_be_emptied(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.pull(Place([]), full=True)  # a hospital that begins with nothing
    assert mirror.status()["complete"]
    mirror.keep([Part(keys=("pushed",), data=b"pushed", suffix=".dcm")])
    mirror.pull(Place(KEYS), place="pacs")
    with pytest.raises(UnavailableError, match="emptied"):
        mirror.pull(Place([]), full=True, place="pacs")
    mirror.pull(Place([]), place="pacs")  # nor does a pull that is not full fail, or drop anything
    assert mirror.status()["records"] == len(KEYS) + 1
    assert mirror.pull(Place([]), full=True, emptied=True, place="pacs").gone == len(KEYS)
    assert mirror.pull(Place([]), full=True, place="pacs").gone == 0
    assert files(mirror) == [b"pushed"]


def test_a_full_pull_leaves_what_another_place_brought(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.keep([Part(keys=("pushed",), data=b"pushed", suffix=".dcm")])
    mirror.pull(Place(KEYS), place="pacs")
    assert mirror.pull(Place(KEYS[:5]), full=True, place="pacs").gone == 30
    assert b"pushed" in files(mirror)


def test_two_writers_and_a_reader_do_not_meet(tmp_path: Path) -> None:
    one, other = Mirror(tmp_path / "m"), Mirror(tmp_path / "m")
    one.pull(Place(KEYS), place="pacs")
    (tmp_path / "m" / "incoming" / "half").write_bytes(b"half")  # somebody is writing
    other.keep([Part(keys=("pushed",), data=b"pushed", suffix=".dcm")])
    assert len(files(Mirror(tmp_path / "m"))) == len(KEYS) + 1
    assert (tmp_path / "m" / "incoming" / "half").exists()


def lines(**records: str) -> Part:
    data = "".join(f"{key}:{value}\n" for key, value in records.items()).encode()
    return Part(keys=tuple(records), data=data, suffix=".ndjson", lines=True)


def test_lines_that_come_anew_leave_their_old_file(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.keep([lines(a="1", b="1", c="1"), lines(d="1")])
    mirror.keep([lines(b="2"), Gone("d")])
    with reading(mirror.root):
        mirror.tidy()  # a study reads: nothing is rewritten under it
        assert b"a:1\nb:1\nc:1\n" in files(mirror)
    mirror.tidy()
    assert files(mirror) == [b"a:1\nc:1\n", b"b:2\n"]
    mirror.keep([lines(a="3"), lines(c="3")])
    mirror.tidy()
    assert files(mirror) == [b"a:3\n", b"b:2\n", b"c:3\n"]
    assert mirror.status()["records"] == 3


def test_killed_while_a_file_is_written_anew_no_line_is_lost_or_there_twice(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.keep([lines(a="1", b="1")])
    mirror.keep([lines(b="2")])
    mirror.close()
    code = (
        "import sys; from pathlib import Path; from edge.sources.mirror import Mirror; Mirror(Path(sys.argv[1])).tidy()"
    )
    env = {**os.environ, "CORSIA_FAULTS": f"source.tidied={tmp_path / 'killed'}"}
    done = subprocess.run([sys.executable, "-c", code, str(mirror.root)], cwd=Path(__file__).parents[2], env=env)
    assert done.returncode == -signal.SIGKILL
    mirror = Mirror(tmp_path / "m")
    mirror.tidy()
    assert files(mirror) == [b"a:1\n", b"b:2\n"]
    assert mirror.status()["records"] == 2


def test_the_bound_refuses_and_drops_nothing(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m", max_bytes=300)
    with pytest.raises(StorageError, match=r"storage\.full"):
        mirror.pull(Place(KEYS))
    kept = mirror.status()["records"]
    mirror = Mirror(tmp_path / "m")
    assert mirror.pull(Place(KEYS)).kept == 35 - kept


def test_a_pull_that_is_halted_keeps_what_it_has(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    count = iter(range(100))
    with pytest.raises(Halted):
        mirror.pull(Place(KEYS), lambda: next(count) > 11)
    assert mirror.status()["records"] == 13
    assert mirror.pull(Place(KEYS)).kept == 22


def test_names_tell_nothing_and_files_are_private(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "m")
    mirror.pull(Place(["1.2.840.ROSSI"]))
    mirror.close()
    for path in (tmp_path / "m").rglob("*"):
        assert "ROSSI" not in path.name
        assert path.stat().st_mode & 0o077 == 0
    assert b"ROSSI" not in (tmp_path / "m" / "mirror.db").read_bytes()


def test_no_study_reads_what_was_never_pulled_to_its_end(tmp_path: Path) -> None:
    root = tmp_path / "sources" / "d" / "dicom"
    with pytest.raises(UnavailableError, match=r"unavailable\.source"), reading_pulled(root / "records", pulled=True):
        pass
    mirror = Mirror(root)
    with pytest.raises(UnavailableError):
        mirror.pull(Place(KEYS, breaks_after=3))
    with pytest.raises(UnavailableError, match=r"unavailable\.source"), reading_pulled(root / "records", pulled=True):
        pass
    mirror.pull(Place(KEYS))
    assert is_complete(root)
    with reading_pulled(root / "records", pulled=True):
        pass
