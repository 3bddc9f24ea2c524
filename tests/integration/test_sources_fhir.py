"""FHIR servers for real: what changes, what is deleted, files that were cut, servers that do not sort."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.config import DatasetConfig
from edge.sources.mirror import Mirror
from edge.sources.pulling import places, pull
from protocol.errors import AuthenticationError, InputError
from tests.sourcekit import fhir_server, private


def resource(name: str, day: int, **more: object) -> dict[str, object]:
    meta = {"lastUpdated": f"2024-02-{day:02d}T10:00:00.000+00:00"}
    return {"resourceType": "Patient", "id": name, "meta": meta} | more


def served(folder: Path, *resources: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "all.ndjson").write_text("\n".join(json.dumps(one) for one in resources))
    return folder


def config(url: str, mode: str = "search", **more: object) -> DatasetConfig:
    place = {"url": url, "mode": mode, "types": ["Patient"], "page_size": 4, **more}
    return DatasetConfig.model_validate({"fhir_server": place})


def kept(root: Path) -> dict[str, dict[str, object]]:
    lines = [json.loads(line) for path in (root / "records").iterdir() for line in path.read_text().splitlines()]
    found = {line["id"]: line for line in lines}
    assert len(found) == len(lines), "a resource is there twice"
    return found


@pytest.mark.parametrize(("mode", "mood"), [("search", ""), ("search", "unsorted"), ("export", "cut-once")])
def test_what_changes_replaces_what_was(tmp_path: Path, mode: str, mood: str) -> None:
    people = [resource(f"p{n}", 20 - n % 15) for n in range(10)]
    data = served(tmp_path / "data", *people)
    with fhir_server(data, *filter(None, [mood])) as url:
        place = next(places(config(url, mode)))
        assert pull(tmp_path / "m", place).kept == 10
        new = {"lastUpdated": "2099-01-01T00:00:00.000Z"}
        served(data, *people[1:], resource("p0", 1, meta=new, gender="female"), resource("p10", 1, meta=new))
        pull(tmp_path / "m", place)
    found = kept(tmp_path / "m")
    assert sorted(found) == sorted(f"p{n}" for n in range(11))
    assert found["p0"]["gender"] == "female"


def test_what_is_deleted_goes(tmp_path: Path) -> None:
    data = served(tmp_path / "data", *(resource(f"p{n}", n + 1) for n in range(6)))
    with fhir_server(data) as url:
        search, export = next(places(config(url))), next(places(config(url, "export")))
        pull(tmp_path / "s", search)
        pull(tmp_path / "e", export)
        served(data, *(resource(f"p{n}", n + 1) for n in range(4)))
        (data / "deleted.txt").write_text("Patient/p4 Patient/p5")
        assert pull(tmp_path / "s", search, full=True).gone == 2
        assert pull(tmp_path / "e", export).gone == 2
    assert sorted(kept(tmp_path / "s")) == sorted(kept(tmp_path / "e")) == ["p0", "p1", "p2", "p3"]


def test_a_wrong_token_and_a_server_of_another_kind(tmp_path: Path) -> None:
    data = served(tmp_path / "data", resource("p", 1))
    with fhir_server(data, "token=right") as url:
        wrong = config(url, token_file=private(tmp_path / "token", "WRONG-SECRET"))
        with pytest.raises(AuthenticationError, match=r"auth\.source") as error:
            pull(tmp_path / "m", next(places(wrong)))
        assert "WRONG" not in str(error.value)
        elsewhere = config(f"{url}/metadata", token_file=private(tmp_path / "token", "right"))
        with pytest.raises(InputError, match=r"input\.source"):
            pull(tmp_path / "m", next(places(elsewhere)))
    mirror = Mirror(tmp_path / "m")
    assert not mirror.status()["complete"]
    mirror.close()
