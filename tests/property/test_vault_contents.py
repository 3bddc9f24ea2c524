"""Whatever a site seals, the vault's checks end in a checked batch or in one of two errors, never in another."""

from __future__ import annotations

import os

import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from central.vault.contents import check_batch
from protocol.errors import DisclosureRefused, IntegrityError
from protocol.parcel import Batch, Item, ItemKind
from protocol.study import Study
from tests.vaultkit import draft, parquet, rows

_INPUTS = 10_000 if os.environ.get("CORSIA_FULL") else 500
_STUDY = Study.model_validate(draft())
_TABLE = parquet(rows(40).assign(count=1, seen="2020-01-01", alive=True, original_x=0.5))


def _batch(*items: Item, withheld: dict[str, int] | None = None) -> Batch:
    return Batch(
        batch_id="0" * 32, study_digest="1" * 64, site="site-a", part=0, last=True, items=items, withheld=withheld or {}
    )


def _judge(batch: Batch) -> None:
    try:
        content = check_batch(_STUDY, batch)
    except (IntegrityError, DisclosureRefused):
        return
    for entry in content.entries:
        assert "/" not in entry.name
        if entry.name.endswith(".parquet"):
            names = entry.data.column_names
            assert all(_STUDY.output.column(name) for name in names)


_edits = st.lists(st.tuples(st.integers(0, len(_TABLE) - 1), st.integers(0, 255)), min_size=1, max_size=8)


@settings(max_examples=_INPUTS, deadline=None)
@given(edits=_edits, cut=st.integers(0, 40))
@example(edits=[(0, _TABLE[0])], cut=0)
def test_damaged_parquet(edits: list[tuple[int, int]], cut: int) -> None:
    raw = bytearray(_TABLE)
    for at, value in edits:
        raw[at] = value
    data = bytes(raw[: len(raw) - cut]) if cut > 20 else bytes(raw)
    _judge(_batch(Item(kind=ItemKind.TABLE, name="records.parquet", data=data)))


@settings(max_examples=_INPUTS, deadline=None)
@given(
    kind=st.sampled_from(list(ItemKind)),
    name=st.one_of(st.text(max_size=20), st.sampled_from(["a.parquet", "a.json", "a.dcm", "../a.json", ".a.json"])),
    data=st.binary(max_size=200),
    persons=st.integers(-2, 5),
    withheld=st.dictionaries(st.text(max_size=10), st.integers(-3, 3), max_size=3),
)
def test_any_item(kind: ItemKind, name: str, data: bytes, persons: int, withheld: dict[str, int]) -> None:
    _judge(_batch(Item(kind=kind, name=name, data=data, persons=persons), withheld=withheld))


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates()), max_size=5
    ),
    column=st.sampled_from(["age", "count", "sex", "seen", "alive", "surname"]),
)
def test_columns_of_any_type(values: list[object], column: str) -> None:
    try:
        data = parquet(pd.DataFrame({column: pd.Series(values)}))
    except (TypeError, ValueError, OverflowError):
        return  # not even Parquet takes such a mixture
    _judge(_batch(Item(kind=ItemKind.TABLE, name="records.parquet", data=data)))
