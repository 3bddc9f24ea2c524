"""Private studies over the fleet's store and landing folder, to a published model that says what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from central.store.models import ModelRow, ParcelRow, RoundRow, StudyRow
from pipelines import infer
from pipelines.flower import ARRAYS, METRICS, arrays_of, message_from_bytes
from pipelines.masking import MASKED
from privacy.envelope import unseal
from protocol.parcel import unpack_batch
from protocol.study import Study
from tests.fault.test_federation_kill import attend
from tests.federation_hospital import Consortium, Hospitals, study
from tests.federation_process import PUBLICATION_KEY

BOUNDS = {"x0": [-3, 3], "x1": [700, 1100]}


def plan(dp: str, masked: bool) -> Study:
    raw = study(rounds=2).model_dump(by_alias=True, exclude_none=True)
    raw["pipeline"]["parameters"] = {"positive": 2, "negative": 1, "private": {"bounds": BOUNDS}}
    raw["training"] |= {"learner": "tabular", "outcome": ["status"]}
    raw["privacy"] |= {"dp": dp, "epsilon": 3.0, "delta": 1e-5, "secure_aggregation": masked}
    return Study.model_validate(raw)


@pytest.mark.parametrize(
    ("dp", "masked"),
    [
        ("sample", False),
        pytest.param("sample", True, marks=pytest.mark.full),
        pytest.param("central", False, marks=pytest.mark.full),
        ("central", True),
        ("distributed", True),
    ],
)
def test_a_private_run_is_published_with_its_guarantee(tmp_path: Path, dp: str, masked: bool) -> None:
    consortium = Consortium(tmp_path / "state", plan(dp, masked))
    landed: dict[str, bytes] = {}
    deliver = consortium.deliver

    def kept(site: str, assignment: str, reply: bytes, **signer: object) -> str:
        name = deliver(site, assignment, reply, **signer)  # type: ignore[arg-type]
        landed[name] = (consortium.landing / f"{name}.parcel").read_bytes()
        return name

    consortium.deliver = kept  # type: ignore[method-assign]
    with Hospitals(consortium):
        assert attend(consortium, tmp_path) == 0
    with consortium.store.read() as reading:
        assert reading.get_one(StudyRow, "tiny").state == "done"
        model = reading.scalars(select(ModelRow)).one()
        sites = {row.id: row.site for row in reading.scalars(select(ParcelRow))}
        rounds = reading.scalars(select(RoundRow).order_by(RoundRow.round)).all()
    weights = consortium.store.get_blob(model.weights)
    manifest = infer.verify(consortium.store.get_blob(model.manifest), weights, PUBLICATION_KEY.public).value
    assert 0.999 * 3 < manifest["epsilon"] <= 3
    assert (manifest["delta"], manifest["privacy"]["kind"], manifest["masked"]) == (1e-5, dp, masked)
    assert manifest["privacy"]["voids"]
    assert [set(r.metrics) for r in rounds[1:]] == [{"rows"} if dp == "sample" else {"answers"}] * 2
    _nothing_but_arrays_leaves(consortium, landed, sites, masked)


def _nothing_but_arrays_leaves(
    consortium: Consortium, landed: dict[str, bytes], sites: dict[str, str], masked: bool
) -> None:
    """No answer holds a number beside its arrays, but how many rows there are (1 where a site is hidden)."""
    import io

    key = consortium.keys.secret(consortium.study.id)
    for name, raw in landed.items():
        opened = b"".join(unseal(io.BytesIO(raw), key=key, sender=consortium.identities[sites[name]].public))
        content = message_from_bytes(unpack_batch(opened).items[0].data).content
        if ARRAYS not in content:
            continue
        told = dict(content.metric_records[METRICS])
        if masked:
            assert set(arrays_of(content.array_records[ARRAYS])) == {MASKED}
            assert told == {}
        else:
            assert told == {"num-examples": 1 if consortium.study.privacy.site_level else 40}
            assert all(np.isfinite(value).all() for value in arrays_of(content.array_records[ARRAYS]).values())
