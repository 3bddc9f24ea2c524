"""`corsia bench wall` at small size: real processes, every figure made, nothing refused and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corsia.bench_wall_agents import all_at_once, idle_centre
from corsia.cli import app
from corsia.cli.bench import _bytes
from protocol.errors import InputError


def test_the_command_prints_the_contract(tmp_path: Path) -> None:
    options = ["--size", "8MiB", "--small", "64", "--repeats", "1", "--idle", "0", "--agents", "12"]
    done = CliRunner().invoke(
        app, ["bench", "wall", *options, "--dir", str(tmp_path), "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0
    (line,) = done.stdout.splitlines()
    made = json.loads(line)
    for name in ("ratio_to_raw", "ratio_to_durable", "small_per_s", "peak_rss_mb"):
        assert made[name] > 0
    assert made["size_bytes"] == 8 << 20
    assert made["small"]["parcels"] == 64
    assert made["agents"]["connected"] == made["agents"]["delivered"] == 12
    assert made["agents"]["refused"] == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("1kB", 0), ("5", 5), ("3MB", 3 * 10**6)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    if size:
        assert _bytes(text) == size
    else:
        with pytest.raises(InputError):
            _bytes(text)


@pytest.mark.full
def test_200_agents_at_once_and_none_is_refused(tmp_path: Path) -> None:
    made = all_at_once(tmp_path, 200)
    assert made["connected"] == made["delivered"] == 200
    assert made["refused"] == {}


@pytest.mark.full
def test_the_centre_at_rest_with_51_agents_stays_below_400_mb(tmp_path: Path) -> None:
    made = idle_centre(tmp_path, 51, seconds=30)
    assert made["beats"] > 51
    assert made["mb"] < 400
