"""Sample-level privacy of a researcher's own module: rows one by one, checked layers, the same preparation and cost."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines import guarantee
from pipelines.learners import described
from pipelines.learners.imaging import ImageLearner
from pipelines.learners.noised import private
from pipelines.learners.torchmodel import TorchLearner
from privacy.dp.stream import Stream
from protocol.errors import InputError
from protocol.study import Study
from tests.imagekit import source
from tests.privatekit import BOUNDS
from tests.privatekit import private as tabular
from tests.tabularkit import frame
from tests.unit.test_noised_images import private as imaging

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")
KEY = "corsia-example==1.0.0"


class Plain(TorchLearner):
    """A network."""

    name = "plain"

    def build(self, settings: Any) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(self.columns_in_use, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


class Peeking(Plain):
    """Rows see one another in each of the three places that a plug-in writes."""

    def build(self, settings: Any) -> Any:
        class Centred(torch.nn.Module):  # type: ignore[misc]
            def forward(self, x: Any) -> Any:
                return x - 0.9 * x.mean(dim=0)

        return torch.nn.Sequential(Centred(), super().build(settings))

    def loss(self, output: Any, target: Any) -> Any:
        return super().loss(output * (1 + target.sum() + output.square().sum()), target)

    def transform(self, x: Any) -> Any:
        return x - 0.9 * x.mean(axis=0)


class Normed(Plain):
    """Statistics of a batch."""

    def build(self, settings: Any) -> Any:
        return torch.nn.Sequential(
            torch.nn.Linear(self.columns_in_use, 4), torch.nn.BatchNorm1d(4, track_running_stats=False),
            torch.nn.Linear(4, 1),
        )  # fmt: skip


class Recurrent(Plain):
    """A layer of torch for which Opacus has no gradient of each row."""

    def build(self, settings: Any) -> Any:
        class Last(torch.nn.Module):  # type: ignore[misc]
            def __init__(self, width: int) -> None:
                super().__init__()
                self.cells, self.head = torch.nn.LSTM(width, 4, batch_first=True), torch.nn.Linear(4, 1)

            def forward(self, x: Any) -> Any:
                return self.head(self.cells(x[:, None])[0][:, -1])

        return Last(self.columns_in_use)


class Own(Plain):
    """Weights of its own, one that no loss needs among them, and a layer that is used twice."""

    def build(self, settings: Any) -> Any:
        class Scaled(torch.nn.Module):  # type: ignore[misc]
            def __init__(self, width: int) -> None:
                super().__init__()
                self.scale, self.idle = torch.nn.Parameter(torch.ones(width)), torch.nn.Linear(2, 2)
                self.mix, self.head = torch.nn.Linear(width, width), torch.nn.Linear(width, 1)

            def forward(self, x: Any) -> Any:
                return self.head(self.mix(torch.tanh(self.mix(x * self.scale))))

        return Scaled(self.columns_in_use)


class Bright(ImageLearner):
    """A convolution and a line."""

    name = "bright"

    def build(self, settings: Any) -> Any:
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(392, 1)
        )


def plan(parameters: dict[str, Any] | None = None, **given: Any) -> Study:
    made = tabular("sample", **given)
    raw = made.model_dump(by_alias=True, exclude_none=True)
    raw["pipeline"] |= {
        "plugin": KEY,
        "parameters": {**raw["pipeline"]["parameters"], "local": {"optimiser": "sgd"}, **(parameters or {})},
    }
    raw["training"]["learner"] = "plain"
    return Study.model_validate(raw)


def learner(kind: type[TorchLearner], study: Study) -> Any:
    made = private(kind, kind.arguments(study), study)
    made._draw = lambda: Stream(hashlib.sha256(b"p").digest())
    return made


@pytest.mark.parametrize("kind", [Plain, Peeking, Own])
def test_one_row_moves_a_step_by_one_clip_whatever_the_module_does_with_a_batch(kind: type[TorchLearner]) -> None:
    study = plan({"private": {"bounds": BOUNDS, "clip": 0.5}}, rounds=1, local_steps=1, learning_rate=1.0)
    made = learner(kind, study)
    rows = made.rows(frame("site-a", 40))
    agreed = made.agree(made.sums(rows, 5))
    model = made.initial({}, agreed)
    x, y = rows.x.copy(), rows.y.copy()
    x[7], y[7] = 1e6, 1 - y[7]
    one, two = (made.fit(model, agreed, table, 1) for table in (rows, replace(rows, x=x, y=y)))
    moved = np.sqrt(sum(np.square(one[k].astype(np.float64) - two[k]).sum() for k in one)) * 40
    assert 0 < moved <= 2 * 0.5 * (1 + 1e-3)
    assert not any((one[k] == model[k]).any() for k in one)  # noise in every weight, in the idle ones too


@pytest.mark.parametrize("kind", [Normed, Recurrent])
def test_a_module_that_opacus_cannot_clip_is_refused_before_any_row_is_read(kind: type[TorchLearner]) -> None:
    with pytest.raises(InputError, match=r"privacy\.dp"):
        learner(kind, plan()).module()


def test_preparation_is_noised_and_no_scores_are_given() -> None:
    made = learner(Plain, plan())
    rows = made.rows(frame("site-a", 60))
    sums = made.sums(rows, 5)
    assert made.plausible(sums, 60)
    assert not sums["outcome"].any()
    assert not np.array_equal(sums["sum"], learner(Peeking, plan(epsilon=1.0)).sums(rows, 5)["sum"])
    assert made.scoring() == {}
    with pytest.raises(InputError):
        made.score({}, {}, rows)


def test_a_plug_ins_cost_needs_no_plug_in_and_is_what_it_draws_by() -> None:
    for study, kind in ((plan(), Plain), (imaging(), Bright)):
        asked = study
        if kind is Bright:
            raw = study.model_dump(by_alias=True, exclude_none=True)
            raw["pipeline"] |= {"plugin": KEY}
            raw["pipeline"]["parameters"].pop("channels")
            raw["training"]["learner"] = "bright"
            asked = Study.model_validate(raw)
        drawn = kind.from_study(asked)
        assert drawn.schedule == described.outlined(asked).schedule
        assert drawn.schedule.cost().epsilon(1e-5) == guarantee.cost(asked).epsilon(1e-5)  # type: ignore[union-attr]
        assert any("plug-in" in void for void in guarantee.guarantee(asked, 2)["voids"])


def test_on_images_a_plug_in_takes_its_noised_steps() -> None:
    raw = imaging().model_dump(by_alias=True, exclude_none=True)
    raw["pipeline"] |= {"plugin": KEY}
    raw["pipeline"]["parameters"].pop("channels")
    study = Study.model_validate(raw)
    made = Bright.from_study(study)
    read = source("site-a")
    rows = made.rows(read.table(), None, "patient_id", read.files)
    sums = made.sums(rows, 5)
    model = made.initial(sums, made.agree(sums))
    fits = [made.fit(model, made.agree(sums), rows, 1) for _ in range(2)]
    assert not any((fits[0][k] == fits[1][k]).any() for k in model)


def test_settings_that_noised_steps_do_not_honour_are_refused() -> None:
    for local in ({"accumulate": 2}, {"precision": "mixed"}, {"clip": 1.0}):
        with pytest.raises(InputError, match=next(iter(local))):
            Plain.from_study(plan({"local": local}))
    with pytest.raises(InputError, match="private"):
        Plain.from_study(plan({"private": None}))
