"""The error tree: codes, exit statuses and the page made from them."""

from __future__ import annotations

import errno
import importlib.util
import inspect
import json
from pathlib import Path

import pytest

from protocol import errors
from protocol.errors import CODES, ConfigurationError, CorsiaError, InputError, PolicyRefused, StorageError, from_code

ROOT = Path(__file__).parents[2]


def test_each_class_has_its_own_exit_status_between_10_and_99() -> None:
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, CorsiaError) and c is not CorsiaError
    ]
    statuses = [c.exit_status for c in classes]
    assert len(set(statuses)) == len(statuses)
    assert all(10 <= s <= 99 for s in statuses)
    assert {entry.error for entry in CODES.values()} == set(classes)


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EFBIG, "full"), (errno.EIO, "failed"), (None, "failed")],
)
def test_a_disk_without_room_is_full_by_whatever_name(number: int | None, code: str) -> None:
    made = StorageError.of(OSError(number, "x"), "said")
    assert (made.code, made.message) == (f"storage.{code}", "said")


def test_a_code_must_belong_to_its_class() -> None:
    with pytest.raises(AssertionError):
        PolicyRefused("config.invalid")
    with pytest.raises(AssertionError):
        ConfigurationError("no.such.code")


def test_from_code_rebuilds_the_class_and_refuses_unknown_codes() -> None:
    for code, entry in CODES.items():
        assert type(from_code(code)) is entry.error
    assert isinstance(from_code("x" * 1000), InputError)


def test_the_page_of_errors_is_current() -> None:
    spec = importlib.util.spec_from_file_location("docs_errors", ROOT / "docs" / "errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "errors.md").read_text() == module.render(), "run: python docs/errors.py"


@pytest.mark.parametrize("arguments", [["study", "ls", "--no-such"], ["no-such-command"], ["study", "show"]])
def test_wrong_usage_is_one_json_object_as_every_other_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from corsia.cli import main

    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "usage"
    assert "--help" in err
