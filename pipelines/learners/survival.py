"""Survival from a time and a status: discrete-time hazards, linear or with hidden layers.

The follow-up is cut into intervals; in each, a person at risk has the hazard sigmoid(baseline_j + risk(x)). The
likelihood is a sum over persons, so sites need not share risk sets as in Cox regression. What sites share before
round 1 are sums: counts, sums and squares of each feature and level, and event times counted in half-octave cells, from
which the intervals follow. Raw times never leave.

Source: Gensheimer and Narasimhan 2019, "A scalable discrete-time survival model for neural networks", PeerJ 7:e6257,
eq. 1-3; concordance after Harrell et al. 1982, JAMA 247:2543.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.compute import Compute
from pipelines.learners import Averaged, Documents, Files, columns, proximal
from pipelines.learners.followup import CELLS, cells, concordance, edges_at, labels, uppers
from pipelines.learners.measures import crowded
from pipelines.learners.vocabulary import Spellings, Vocabulary, level, standardised
from protocol.errors import InputError
from protocol.study import Study
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Settings", "Survival", "SurvivalRows"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]


class Settings(BaseModel):
    """`[pipeline.parameters]` of a study with this learner.

    Attributes:
        categorical, drop_first: see `tabular.Settings`.
        hidden: widths of hidden layers; none makes the risk linear.
        intervals: how many intervals of follow-up, cut at equal shares of the events of all sites.
        edges: the intervals' right ends instead, in the unit of the time column.
        event: the value of the status column that means "event", a number or a word.
        censored: the value that means "censored"; a row with any other is not used. Without these two, statuses are
            0/1 or, as in R's survival package, 1/2; which of the two is settled by the sites' summed counts.
        l2: weight of the squared risk weights in the loss.
        horizon: the time to which predictions give the survival probability; default: the middle interval's end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    categorical: dict[str, Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=1000)]] = {}
    drop_first: bool = False
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(max_length=4)] = ()
    intervals: Annotated[int, Field(ge=2, le=200)] = 10
    edges: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=200)] = ()
    event: bool | int | float | str | None = None
    censored: bool | int | float | str | None = None
    l2: Annotated[float, Field(ge=0, le=100)] = 0.01
    horizon: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if list(self.edges) != sorted(set(self.edges)) or len(self.edges) == 1:
            raise ValueError("edges: two or more, rising")
        named = [level(value) for value in (self.event, self.censored) if value is not None]
        if len(named) == 1 or len(set(named)) != len(named):
            raise ValueError("event, censored: give both, and different values")
        if any(len(set(levels)) != len(levels) for levels in self.categorical.values()):
            raise ValueError("categorical: a level is named twice")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalRows:
    """Usable rows of one site.

    Attributes:
        x: float64 (rows, columns of the vocabulary), NaN where missing.
        time: float64 (rows,), positive, in the table's unit.
        status: int64 (rows,): the table's code, 0, 1 or 2; where the study names its values 0 censored, 1 event.
        dropped: rows without a usable time or status.
    """

    x: Array
    time: Array
    status: Array
    dropped: int

    @property
    def count(self) -> int:
        """How many rows can be used."""
        return len(self.time)


class Survival(Averaged):
    """Discrete-time hazards. See `pipelines.learners.Learner` for the methods' contract."""

    name = "survival"
    version = "1"

    def __init__(
        self,
        *,
        features: tuple[str, ...],
        settings: Mapping[str, Any],
        outcome: tuple[str, ...] = ("time", "status"),
        steps: int = 0,
        learning_rate: float = 0.0,
        seed: int = 0,
        pull: float = 0.0,
        least: int = 1,
    ) -> None:
        if len(outcome) != 2 or not features or set(outcome) & set(features) or len(set(features)) != len(features):
            raise InputError("input.study", "training: give features, and outcome = [time, status] apart from them")
        try:
            self.settings = Settings.model_validate(dict(settings))
        except ValidationError as error:
            raise InputError("input.study", first_fault(error, "pipeline", "parameters")) from None
        if set(self.settings.categorical) - set(features):
            raise InputError("input.study", "pipeline.parameters.categorical: names a column that is no feature")
        self.features, self._outcome = features, outcome
        self.vocabulary = Vocabulary(features, self.settings.categorical)
        self._steps, self._rate, self._seed, self._pull, self._least = steps, learning_rate, seed, pull, least

    @classmethod
    def from_study(cls, study: Study) -> Survival:
        """The learner with a study's settings.

        Raises:
            InputError: `input.study`.
        """
        t = study.training
        if t is None:
            raise InputError("input.study", "training: the study has no such table")
        return cls(
            features=t.features,
            settings=study.pipeline.parameters,
            outcome=t.outcome,
            steps=t.local_steps,
            learning_rate=t.learning_rate,
            seed=t.seed,
            pull=proximal(t),
            least=study.privacy.k,
        )

    # -- rows ------------------------------------------------------------------------------------------------------

    outputs = ("risk", "survival", "horizon")
    crossed = "Model updates, sums of features and coarse counts of event times"
    notes = (
        "Missing values are replaced by the mean over all sites; mean and scale were agreed by sums before round 1.",
        "A level that no site has often counts as none.",
    )
    measured = (
        "On the rows it was trained on (pairs within each site): for comparing rounds, not a claim about new patients."
    )

    def rows(
        self, frame: pd.DataFrame, documents: Documents | None = None, patient: str | None = None,
        files: Files | None = None,
    ) -> SurvivalRows:  # fmt: skip
        """Rows with a positive time and an allowed status.

        Raises:
            InputError: `input.column-missing`, or `input.table` for a column that is not numeric.
        """
        time, status = columns.numbers(frame, self._outcome[0]), self._status(frame)
        usable = np.isfinite(time) & (time > 0) & np.isfinite(status)
        return SurvivalRows(
            x=self.vocabulary.matrix(frame)[usable],
            time=time[usable],
            status=status[usable].astype(np.int64),
            dropped=int((~usable).sum()),
        )

    def _status(self, frame: pd.DataFrame) -> Array:
        """0, 1, 2, or NaN where it is missing or no status."""
        name, s = self._outcome[1], self.settings
        if s.event is None or s.censored is None:
            status = columns.numbers(frame, name)
            if (status == 0).any() and (status == 2).any():
                raise InputError("input.table", "the status column holds 0 and 2: name `event` and `censored`")
            return np.where(np.isin(status, (0, 1, 2)), status, np.nan)
        if name not in frame.columns:
            raise InputError("input.column-missing", f"column {name!r}")
        known = Spellings([level(s.censored), level(s.event)])
        missing = frame[name].isna()
        found = [None if gone else known.find(level(v)) for v, gone in zip(frame[name], missing, strict=True)]
        return np.array([np.nan if place is None else float(place) for place in found])

    # -- before round 1: sums over sites ---------------------------------------------------------------------------

    def preparation(self) -> Shapes:
        """float64: rows (1,), count/sum/square (columns,), status (3,), times (2, cells)."""
        d = self.vocabulary.width
        shapes: dict[str, tuple[int, ...]] = {
            "rows": (1,), "count": (d,), "sum": (d,), "square": (d,), "status": (3,), "times": (2, CELLS),
        }  # fmt: skip
        return {name: ("float64", shape) for name, shape in shapes.items()}

    def sums(self, rows: SurvivalRows, least: int) -> Arrays:
        """Sums over the rows; of features see `Vocabulary.totals`.

        `status` counts the codes 0, 1, 2, and 0 for one that fewer than `least` persons have; `times` counts, for the
        codes 1 and 2, times in half-octave cells, moved up to a cell where `least` have come together.
        """
        count, total, square = self.vocabulary.totals(rows.x, least)
        code, cell = rows.status, cells(rows.time)
        times = np.stack([crowded(np.bincount(cell[code == c], minlength=CELLS), least) for c in (1, 2)])
        status = np.bincount(code, minlength=3)
        return {
            "rows": np.array([float(rows.count)]),
            "count": count,
            "sum": total,
            "square": square,
            "status": np.where(status >= least, status, 0).astype(np.float64),
            "times": times.astype(np.float64),
        }

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether one site's sums are counts that fit together."""
        counts = [sums[name] for name in ("rows", "count", "status", "times")]
        whole = all(bool((c >= 0).all()) and bool((c == np.floor(c)).all()) for c in counts)
        rows, n = sums["rows"][0], sums["count"]
        bounded = bool(rows == examples and sums["status"].sum() <= rows) and bool((n <= rows).all())
        squares = bool((np.square(sums["sum"]) <= sums["square"] * n * (1 + 1e-9) + 1e-9).all())
        return whole and bounded and squares and bool((sums["times"].sum(axis=1) == sums["status"][1:]).all())

    def agree(self, sums: Arrays) -> Arrays:
        """Preprocessing: mean, scale, kept (columns,), edges (intervals,), event (1,): the code that means event.

        Raises:
            InputError: `input.rows` when no site has events enough to count them, `input.table` when codings
                contradict each other.
        """
        if sums["status"][0] > 0 and sums["status"][2] > 0:
            raise InputError("input.table", "sites code the status differently: name `event` and `censored`")
        event = 2 if sums["status"][2] > 0 else 1
        counts = sums["times"][event - 1]
        if counts.sum() < 1:
            raise InputError("input.rows", "no site has as many events as may be counted (privacy.k)")
        return {
            **self.vocabulary.agreed(sums, self.settings.drop_first),
            "edges": np.array(self.settings.edges)
            if self.settings.edges
            else edges_at(counts, self.settings.intervals),
            "event": np.array([float(event)]),
        }

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """float32: baseline (intervals,) from the summed events, risk weights 0, hidden layers drawn from the seed."""
        edges = preprocessing["edges"]
        counts = sums["times"][int(preprocessing["event"][0]) - 1]
        interval = np.minimum(np.searchsorted(edges, uppers() * (1 - 1e-9)), len(edges) - 1)
        events = np.bincount(interval, weights=counts, minlength=len(edges))
        at_risk = np.maximum(sums["rows"][0] - np.concatenate([[0.0], np.cumsum(events)[:-1]]), 1.0)
        hazard = np.clip(events / at_risk, 0.01, 0.9)
        model = {"baseline": np.log(hazard / (1 - hazard)).astype(np.float32)}
        draw, width = np.random.default_rng(self._seed), int(preprocessing["kept"].sum())
        for i, wider in enumerate(self.settings.hidden):
            bound = 1 / math.sqrt(width)
            model[f"hidden.{i}.weight"] = draw.uniform(-bound, bound, (wider, width)).astype(np.float32)
            model[f"hidden.{i}.bias"] = np.zeros(wider, np.float32)
            width = wider
        bound = 1 / math.sqrt(width) if self.settings.hidden else 0.0
        model["risk.weight"] = draw.uniform(-bound, bound, (1, width)).astype(np.float32)
        return model

    # -- training --------------------------------------------------------------------------------------------------

    def warm(self, compute: Compute | None = None) -> None:
        """Import torch and step once (the first step loads more)."""
        import torch

        weight = torch.zeros(1, requires_grad=True)
        weight.sum().backward()
        torch.optim.Adam([weight]).step()

    def fit(self, model: Arrays, preprocessing: Arrays, rows: SurvivalRows, seed: int) -> Arrays:
        """Full-batch Adam on the mean negative log-likelihood; one thread, deterministic algorithms."""
        import torch

        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        fell, mask = labels(self._event(rows, preprocessing), rows.time, preprocessing["edges"])
        x, y, at_risk = (
            torch.tensor(a, dtype=torch.float32) for a in (self._scaled(rows.x, preprocessing), fell, mask)
        )
        weights = {name: torch.tensor(value, requires_grad=True) for name, value in model.items()}
        optimiser = torch.optim.Adam(list(weights.values()), lr=self._rate)
        for _ in range(self._steps):
            optimiser.zero_grad()
            h = x
            for i in range(len(self.settings.hidden)):
                h = torch.relu(h @ weights[f"hidden.{i}.weight"].T + weights[f"hidden.{i}.bias"])
            logits = h @ weights["risk.weight"].T + weights["baseline"]
            each = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, weight=at_risk, reduction="sum")
            penalty = sum((w.square().sum() for n, w in weights.items() if n.endswith("weight")), torch.zeros(()))
            if self._pull:  # FedProx
                moved = (w - torch.tensor(model[n]) for n, w in weights.items())
                each = each + len(y) * self._pull / 2 * sum((m.square().sum() for m in moved), torch.zeros(()))
            (each / len(y) + self.settings.l2 * penalty).backward()
            optimiser.step()
        return {name: value.detach().numpy().copy() for name, value in weights.items()}

    # -- scores and predictions ------------------------------------------------------------------------------------

    def scoring(self) -> Shapes:
        """float64 (1,): concordant and comparable pairs, negative log-likelihood, rows."""
        return {name: ("float64", (1,)) for name in ("concordant", "comparable", "loss", "rows")}

    def score(self, model: Arrays, preprocessing: Arrays, rows: SurvivalRows) -> Arrays:
        """Pairs within the site, none of one with fewer events than may be counted, and the summed loss."""
        risk = self._risk(model, self._scaled(rows.x, preprocessing))
        event = self._event(rows, preprocessing)
        fell, mask = labels(event, rows.time, preprocessing["edges"])
        logits = risk[:, None] + model["baseline"].astype(np.float64)
        loss = float((mask * (np.logaddexp(0.0, logits) - fell * logits)).sum())
        right, comparable = concordance(risk, rows.time, event) if event.sum() >= self._least else (0.0, 0.0)
        values = {"concordant": right, "comparable": comparable, "loss": loss, "rows": float(rows.count)}
        return {name: np.array([value]) for name, value in values.items()}

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """`c-index` (higher is better) and `loss` a row; what is not defined is left out."""
        values = {}
        if sums["comparable"][0] > 0:
            values["c-index"] = float(sums["concordant"][0] / sums["comparable"][0])
        if sums["rows"][0] > 0:
            values["loss"] = float(sums["loss"][0] / sums["rows"][0])
        return values

    def table(self, model: Arrays, preprocessing: Arrays) -> pd.DataFrame:
        """One row a column in use: mean, scale and, without hidden layers, its weight a standard unit."""
        import pandas as pd

        pre = self._kept(preprocessing)
        kept = np.flatnonzero(pre["kept"])
        names = [self.vocabulary.names[i] for i in kept]
        made: dict[str, Any] = {"feature": [name for name, _ in names]}
        if self.settings.categorical:
            made["level"] = [text for _, text in names]
        made |= {name: pre[name][kept] for name in ("mean", "scale")}
        weight = model["risk.weight"][0].astype(np.float64)
        return pd.DataFrame(made | ({} if self.settings.hidden else {"weight": weight}))

    def predict(self, model: Arrays, preprocessing: Arrays, frame: pd.DataFrame) -> pd.DataFrame:
        """`risk` (log odds relative to the average person) and `survival` to `horizon`, for each row of `frame`.

        Raises:
            InputError: `input.column-missing`, or `input.table` for a column that is not as the study says.
        """
        import pandas as pd

        edges = preprocessing["edges"]
        risk = self._risk(model, self._scaled(self.vocabulary.matrix(frame), preprocessing))
        hazard = 1 / (1 + np.exp(-(risk[:, None] + model["baseline"].astype(np.float64))))
        horizon = self.settings.horizon or float(edges[len(edges) // 2])
        starts = np.concatenate([[0.0], edges[:-1]])
        share = np.clip((horizon - starts) / (edges - starts), 0.0, 1.0)  # of each interval that lies before it
        survival = np.exp((np.log1p(-np.minimum(hazard, 1 - 1e-12)) * share).sum(axis=1))
        return pd.DataFrame({"risk": risk, "survival": survival, "horizon": horizon}, index=frame.index)

    def _risk(self, model: Arrays, x: Array) -> Array:
        h = x
        for i in range(len(self.settings.hidden)):
            weight, bias = (model[f"hidden.{i}.{part}"].astype(np.float64) for part in ("weight", "bias"))
            h = np.maximum(h @ weight.T + bias, 0.0)
        return (h @ model["risk.weight"].astype(np.float64).T)[:, 0]

    def _scaled(self, x: Array, preprocessing: Arrays) -> Array:
        return standardised(x, self._kept(preprocessing), "agreed", x)

    @staticmethod
    def _kept(preprocessing: Arrays) -> Arrays:
        """With the columns in use: all of them in a model made before there were levels."""
        return {"kept": np.ones(len(preprocessing["mean"])), **preprocessing}

    def _event(self, rows: SurvivalRows, preprocessing: Arrays) -> Array:
        """Who had the event; a site whose codes contradict the agreed ones says so here, where nobody is counted."""
        event = int(preprocessing["event"][0])
        if (rows.status == {1: 2, 2: 0}[event]).any():
            raise InputError("input.table", "this site codes the status in another way: name `event` and `censored`")
        return np.asarray(rows.status == event)
