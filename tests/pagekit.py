"""A centre with something on every page: hostile names, curated rows, plain and masked runs, models, alarms."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from central.store.models import AssignmentRow, EventRow, RoundRow, RunRow, SiteRow
from privacy.envelope import read_key
from tests.vaultkit import COLUMNS, FEATURES, World, publish, rows, table
from tests.webkit import Running, running_centre

__all__ = ["COLUMN", "XSS", "hostile_centre", "masked_round", "plain_round"]

XSS = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'`{{7*7}}"
COLUMN = "<img src=x onerror=alert(2)>"
_PLAIN, _MASKED = "f" * 32, "e" * 32
_STEPS = ("advertise", "share", "mask", "sign", "release")


@contextmanager
def hostile_centre(root: Path) -> Iterator[Running]:
    """Studies `trial` (harvest), `columns` (extract), `fed` (a plain run), `masked` (masks and noise), model `risk`."""
    with running_centre(root, sign_in_browser=True) as made:
        world = made.world
        world.submit("trial", title=XSS)
        world.land(world.batch(table(), withheld={"consent": 2}))
        world.land(world.batch(site="site-b"), site="site-b")
        world.submit("columns", lane="extract", pipeline={"name": "extract"}, output={"columns": [
            *COLUMNS, {"name": COLUMN, "dtype": "float"}]})  # fmt: skip
        frame = pd.concat([rows(20), pd.DataFrame({COLUMN: [float(i % 4) for i in range(20)]})], axis=1)
        world.land(world.batch(table(frame, "features.parquet"), study_id="columns"), study_id="columns")
        world.drain()
        world.finish(site_b="failed")
        world.finish()
        world.drain()
        _train(made)
        made.sign_checkpoint()
        yield made


def _train(made: Running) -> None:
    world = made.world
    base: dict[str, Any] = {"learner": "survival", "features": list(FEATURES), "outcome": ["time"]}
    plain = base | {"publish": {"model": "risk"}, "metrics": ["c-index"]}
    world.submit("fed", lane="train", pipeline={"name": "train"}, training=plain, output={})
    privacy = {"dp": "distributed", "epsilon": 3.0, "delta": 1e-5, "secure_aggregation": True, "max_examples": 100}
    hidden = base | {"learner": "tabular", "outcome": ["sex"], "publish": {"model": "hidden"}, "rounds": 6}
    private = {"bounds": {"age": [0, 110], "count": [0, 9]}}
    world.submit(
        "masked", lane="train", pipeline={"name": "train", "parameters": {"private": private}}, training=hidden,
        privacy=privacy, output={}, sites=["site-a", "site-b", "site-c"],
    )  # fmt: skip
    publication = read_key(world.root / "signer" / "publication.key")
    publish(world, publication, serial=1, alias="")
    publish(world, publication, serial=2, alias="candidate")
    with world.store.begin() as session:
        for name, run in (("fed", _PLAIN), ("masked", _MASKED)):
            session.add(RunRow(id=run, study_digest=world.digest(name), round=0, phase="train", updated_at=time.time()))
        odd = world.sites["site-a"].public.to_base64()
        session.add(SiteRow(name="odd", network=XSS, identity=odd, enrolled_at=1.0, version=XSS))
        asked = session.query(AssignmentRow).filter_by(id="fed-site-b").one()
        asked.state, asked.code = "refused", "policy.lane"
    for number in range(3):
        plain_round(world, number)
    masked_round(world, 0)
    masked_round(world, 1)


def plain_round(world: World, number: int) -> None:
    """A finished round of `fed`: site-a is quick, site-b slow; each says its own metric, or keeps it."""
    metrics = {"c-index": 0.5 + number / 10, "loss": float("nan"), "name": XSS, "rows": 12}
    metrics["sites"] = {"site-a": {"c-index": 0.5 + number / 20}, "site-b": "withheld"}
    at = time.time()
    events = [
        ("round.begun", "", at - 9, {"round": number, "phase": "train", "attempt": 0, "asked": 2}),
        ("round.answered", "site-a", at - 8.5, {"answered": 1, "asked": 2}),
        ("round.late" if number == 2 else "round.answered", "site-b", at - 2, {}),
        ("round.finished", "", at, {"round": number}),
    ]
    _told(world, "fed", _PLAIN, number, metrics, ["site-a", "site-b"], events)


def masked_round(world: World, number: int) -> None:
    """A finished round of `masked`: five steps; site-c drops out after its shares."""
    at, events = time.time(), []
    for place, step in enumerate(_STEPS):
        began = at - 10 + place
        events.append(("round.begun", "", began, {"round": number, "phase": f"train/{step}", "attempt": 0, "asked": 3}))
        events += [("round.answered", site, began + 0.2, {}) for site in ("site-a", "site-b")]
        if place < 2:
            events.append(("round.answered", "site-c", began + 0.3, {}))
        elif place == 2:
            code = {"round": number, "phase": "train", "code": "unavailable.deadline"}
            events.append(("round.dropped", "site-c", began + 0.4, code))
    _told(world, "masked", _MASKED, number, {"answers": 2, "accuracy": 0.6 + number / 50}, ["site-a", "site-b"], events)


def _told(
    world: World, study: str, run: str, number: int, metrics: dict[str, Any], sites: list[str], events: list[Any]
) -> None:
    with world.store.begin() as session:
        for kind, site, at, fields in events:
            session.add(EventRow(at=at, kind=kind, site=site, study=study, fields=fields))
            session.flush()
        session.add(
            RoundRow(
                run=run, round=number, arrays="", metrics=metrics, sites=sites, started_at=events[0][2],
                finished_at=time.time(),
            )
        )  # fmt: skip
        session.get_one(RunRow, run).round = number
