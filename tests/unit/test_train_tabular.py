"""The tabular learner: what is agreed, what is learnt, and what bad input does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from central.federation.local import train_locally
from pipelines import learners
from pipelines.learners import measures, network
from pipelines.learners.tabular import Tabular
from pipelines.learners.vocabulary import BUCKETS, level
from pipelines.train import load
from protocol.errors import CorsiaError, InputError
from protocol.study import Study
from tests.tabularkit import SITES, frame, study


def trained(plan: Study, frames: dict[str, pd.DataFrame] | None = None):
    frames = frames or {site: frame(site) for site in plan.sites}
    return train_locally(plan, {site: load(plan, site, rows) for site, rows in frames.items()})


def test_a_logistic_model_finds_the_effects_and_does_better_than_chance() -> None:
    plan = study(rounds=5, local_steps=40)
    reached = trained(plan)
    assert reached.metrics["accuracy"] > 0.72
    assert reached.metrics["auc"] > 0.8
    assert reached.metrics["rows"] == 360
    learner = learners.for_study(plan)
    table = learner.table(reached.model, reached.preprocessing).set_index(["feature", "level"])["weight"]
    assert table["x0", ""] > 0.8
    assert table["kind", "severe"] - table["kind", "mild"] > 0.3
    predicted = learner.predict(reached.model, reached.preprocessing, frame("elsewhere"))
    assert list(predicted.columns) == ["probability"]
    assert predicted["probability"].between(0, 1).all()


def test_a_number_is_predicted_in_its_own_unit() -> None:
    plan = study({"task": "continuous"}, outcome=("score",), rounds=6, local_steps=60)
    reached = trained(plan)
    assert reached.metrics["r2"] > 0.8
    learner = learners.for_study(plan)
    held = frame("elsewhere")
    error = learner.predict(reached.model, reached.preprocessing, held)["value"] - held["score"]
    assert float(np.sqrt(np.square(error).mean())) < 2.2
    weight = learner.table(reached.model, reached.preprocessing).set_index("feature")["weight"]
    assert weight["x0"] == pytest.approx(4.5, abs=0.7)


def test_hidden_layers_learn_what_a_line_cannot() -> None:
    draw = np.random.default_rng(5)
    x = draw.normal(size=(900, 2))
    rows = pd.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "disease": (x[:, 0] * x[:, 1] > 0).astype(int)})
    frames = {site: rows.iloc[i::3].reset_index(drop=True) for i, site in enumerate(SITES)}
    parts = {"categorical": {}, "l2": 0.0}
    settings = {"features": ("x0", "x1"), "rounds": 10, "local_steps": 100, "learning_rate": 0.02}
    assert trained(study(parts, **settings), frames).metrics["accuracy"] < 0.65
    assert trained(study({**parts, "hidden": [16]}, **settings), frames).metrics["accuracy"] > 0.88


@pytest.mark.parametrize("hidden", [(), (4,), (5, 3)])
@pytest.mark.parametrize("binary", [True, False])
def test_the_slopes_are_those_of_the_loss(hidden: tuple[int, ...], binary: bool) -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(7, 3)), draw.integers(0, 2, 7).astype(float)
    weights = [w.astype(np.float64) for w in network.initial(3, hidden, draw).values()]
    recipe = network.Recipe(steps=1, batch=7, rate=1.0, optimiser="sgd", binary=binary)

    def loss() -> float:
        z = network._forward(weights, x)[-1][:, 0]
        return float((np.logaddexp(0, z) - y * z).mean() if binary else 0.5 * np.square(z - y).mean())

    for i, slope in enumerate(network._slopes(weights, x, y, recipe)):
        for place in np.ndindex(slope.shape):
            kept = weights[i][place]
            weights[i][place] = kept + 1e-6
            above = loss()
            weights[i][place] = kept - 1e-6
            assert slope[place] == pytest.approx((above - loss()) / 2e-6, abs=1e-6)
            weights[i][place] = kept


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_steps_are_torchs(optimiser: str) -> None:
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(9, 4)), draw.integers(0, 2, 9).astype(float)
    model = network.initial(4, (), draw)
    recipe = network.Recipe(steps=20, batch=9, rate=0.05, optimiser=optimiser, binary=True, l2=0.01, pull=0.3)
    ours = network.trained(model, x, y, recipe, np.random.default_rng(0))
    start = {n: torch.tensor(v, dtype=torch.float64) for n, v in model.items()}
    w, b = (start[f"layer.0.{n}"].clone().requires_grad_() for n in ("weight", "bias"))
    made = (torch.optim.SGD if optimiser == "sgd" else torch.optim.Adam)([w, b], lr=0.05)
    for _ in range(20):
        made.zero_grad()
        z = (torch.tensor(x) @ w.T + b)[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor(y)) + 0.01 * w.square().sum()
        moved = (w - start["layer.0.weight"]).square().sum() + (b - start["layer.0.bias"]).square().sum()
        (loss + 0.15 * moved).backward()
        made.step()
    assert np.allclose(ours["layer.0.weight"], w.detach().numpy(), atol=1e-6)
    assert np.allclose(ours["layer.0.bias"], b.detach().numpy(), atol=1e-6)


def test_the_same_run_gives_the_same_bytes() -> None:
    plan = study({"hidden": [3]}, rounds=2)
    one, two = trained(plan).model, trained(plan).model
    assert {n: v.tobytes() for n, v in one.items()} == {n: v.tobytes() for n, v in two.items()}


# -- what is agreed by sums


def test_mean_and_scale_are_those_of_all_rows_together() -> None:
    plan = study()
    learner = learners.for_study(plan)
    frames = [frame(site) for site in SITES]
    sums = [learner.sums(learner.rows(rows), 5) for rows in frames]
    agreed = learner.agree({name: sum(s[name] for s in sums) for name in sums[0]})
    together = pd.concat(frames)
    assert agreed["mean"][:2] == pytest.approx(together[["x0", "x1"]].mean().to_numpy())
    assert agreed["scale"][:2] == pytest.approx(together[["x0", "x1"]].std(ddof=0).to_numpy())
    assert agreed["mean"][3] == pytest.approx((together["kind"] == "severe").mean())
    assert all(learner.plausible(s, len(rows)) for s, rows in zip(sums, frames, strict=True))
    assert not learner.plausible(sums[0], 119)


def test_rare_levels_values_and_classes_do_not_leave() -> None:
    learner = Tabular(
        features=("x0", "flag", "kind"), outcome=("y",), settings={"categorical": {"kind": ["a", "b", "c"]}}
    )
    rows = pd.DataFrame(
        {
            "x0": [1.0] * 4 + [None] * 16, "flag": [1] * 3 + [0] * 17, "kind": ["a"] * 12 + ["b"] * 4 + ["z"] * 4,
            "y": [1] * 4 + [0] * 16,
        }
    )  # fmt: skip
    sums = learner.sums(learner.rows(rows), 5)
    assert sums["count"].tolist() == [0, 0, 12, 12, 12]
    assert sums["sum"].tolist() == [0, 0, 12, 0, 0]
    assert sums["outcome"].tolist() == [16, 0]
    with pytest.raises(InputError, match="both classes"):
        learner.agree(sums)


def test_unknown_levels_are_zero_and_missing_ones_the_mean() -> None:
    learner = learners.for_study(study({"standardise": "none"}))
    matrix = learner.vocabulary.matrix(
        pd.DataFrame({"x0": [0.0] * 4, "x1": [1.0, np.inf, 1e300, 2.0], "kind": ["mild", "other", None, " severe "]})
    )
    assert matrix[:, 2:].tolist()[0] == [1, 0]
    assert matrix[:, 2:].tolist()[1] == [0, 0]
    assert np.isnan(matrix[2, 2:]).all()
    assert matrix[:, 2:].tolist()[3] == [0, 1]
    assert np.isnan(matrix[[1, 2], 1]).all()


def test_levels_need_not_be_named() -> None:
    plan = study({"categorical": {"kind": []}}, rounds=3, local_steps=40)
    reached = trained(plan)
    assert reached.metrics["auc"] > 0.78
    assert reached.preprocessing["kept"].sum() in (3, 4)  # the two levels may share a bucket
    learner = learners.for_study(plan)
    assert learner.vocabulary.width == 2 + BUCKETS
    assert [level(v) for v in (3.0, "3", " 3.0", True, "abc", 2.5)] == ["3", "3", "3", "true", "abc", "2.5"]


def test_local_standardisation_uses_each_sites_own_rows() -> None:
    shifted = {site: frame(site).assign(x1=lambda f, i=i: f["x1"] + 1000 * i) for i, site in enumerate(SITES)}
    plan = study({"standardise": "local"}, rounds=5, local_steps=40)
    reached = trained(plan, shifted)
    plain = trained(study(rounds=5, local_steps=40), shifted)
    assert reached.metrics["auc"] > plain.metrics["auc"] > 0.5


# -- bad input


def test_a_site_with_one_class_or_few_rows_takes_part() -> None:
    frames = {site: frame(site) for site in SITES}
    frames["site-b"] = frames["site-b"].assign(disease=1)
    frames["site-c"] = frames["site-c"].head(1)
    plan = study(rounds=2)
    plan = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"min_cohort": 1})})
    for how in ("agreed", "local"):
        parameters = {**plan.pipeline.parameters, "standardise": how}
        changed = plan.model_copy(update={"pipeline": plan.pipeline.model_copy(update={"parameters": parameters})})
        reached = trained(changed, frames)
        assert all(np.isfinite(v).all() for v in reached.model.values())
        assert reached.metrics["rows"] == 241


def test_one_class_everywhere_is_refused_with_the_reason() -> None:
    frames = {site: frame(site).assign(disease=0) for site in SITES}
    with pytest.raises(InputError, match="both classes") as refused:
        trained(study(), frames)
    assert refused.value.code == "input.rows"
    with pytest.raises(InputError, match="vary"):
        trained(study({"task": "continuous"}), frames)


def test_nan_and_infinity_count_as_missing() -> None:
    frames = {site: frame(site) for site in SITES}
    frames["site-a"].loc[:9, "x0"] = [np.nan, np.inf, -np.inf, 1e308, -1e200] * 2
    frames["site-b"]["x1"] = np.nan
    frames["site-c"]["disease"] = frames["site-c"]["disease"].astype(float)
    frames["site-c"].loc[:4, "disease"] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
    plan = study(rounds=2)
    assert load(plan, "site-c", frames["site-c"]).rows.dropped == 5
    reached = trained(plan, frames)
    assert all(np.isfinite(v).all() for v in reached.model.values())
    assert reached.metrics["auc"] > 0.6


def test_a_site_that_diverges_is_left_out_and_said_so() -> None:
    parts = {"optimiser": "sgd", "standardise": "none", "task": "continuous", "batch": 4}
    plan = study(parts, outcome=("score",), learning_rate=50.0, local_steps=500)
    data = load(plan, "site-a", frame("site-a"))
    sums = data.learner.sums(data.rows, 5)
    agreed = data.learner.agree(sums)
    with pytest.raises(InputError) as refused:
        data.learner.fit(data.learner.initial(sums, agreed), agreed, data.rows, 1)
    assert refused.value.code == "input.diverged"
    with pytest.raises(InputError, match="at 3 sites") as ended:
        trained(plan)
    assert ended.value.code == "input.diverged"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outcome": ("time", "status")}, "one column"),
        ({"features": ("x0", "disease")}, "apart"),
        ({"features": ("x0",)}, "no feature"),
        ({"strategy": "newton"}, "takes"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        learners.for_study(study(**change))


@pytest.mark.parametrize(
    "parameters", [{"hidden": [0]}, {"task": "survival"}, {"batch": 0}, {"l2": -1}, {"negative": 1, "positive": "1.0"},
                   {"more": 1}, {"positive": 1, "task": "continuous"}, {"categorical": {"kind": ["a", "a"]}}]
)  # fmt: skip
def test_settings_are_checked_by_name(parameters: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"pipeline\.parameters"):
        learners.for_study(study(parameters))


def test_the_outcomes_coding_is_named_or_0_and_1() -> None:
    rows = frame("site-a", 20).assign(disease=["yes", "no", "maybe", None] * 5)
    with pytest.raises(InputError, match="positive"):
        load(study(), "site-a", rows)
    data = load(study({"positive": "yes"}), "site-a", rows)
    assert (data.rows.count, data.rows.y.sum()) == (15, 5)
    data = load(study({"positive": "yes", "negative": "no"}), "site-a", rows)
    assert (data.rows.count, data.rows.dropped) == (10, 10)
    for column in ("disease", "kind"):
        with pytest.raises(CorsiaError) as missing:
            load(study(), "site-a", frame("site-a").drop(columns=column))
        assert missing.value.code == "input.column-missing"


# -- metrics


def test_metrics_follow_from_sums() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(4)
    y = draw.integers(0, 2, 2000).astype(float)
    z = draw.normal(y * 1.5 - 0.7)
    parts = [measures.binary_sums(z[i::3], y[i::3], 5) for i in range(3)]
    got = measures.binary_metrics({name: sum(p[name] for p in parts) for name in parts[0]})
    p = network.sigmoid(z)
    assert got["auc"] == pytest.approx(sklearn.roc_auc_score(y, p), abs=0.005)
    assert got["accuracy"] == pytest.approx(sklearn.accuracy_score(y, p > 0.5))
    assert got["loss"] == pytest.approx(sklearn.log_loss(y, p))
    assert got["brier"] == pytest.approx(sklearn.brier_score_loss(y, p))
    many = measures.continuous_metrics(measures.continuous_sums(z, y))
    assert many["r2"] == pytest.approx(sklearn.r2_score(y, z))
    assert measures.continuous_metrics(measures.continuous_sums(z, np.ones(2000))).keys() == {"rmse", "loss"}


def test_no_count_of_a_bin_is_small() -> None:
    draw = np.random.default_rng(6)
    for _ in range(50):
        counts = draw.poisson(2, 30).astype(float)
        made = measures.crowded(counts, 5)
        assert made.sum() == counts.sum()
        assert made[made > 0].min() >= 5
    assert measures.crowded(np.array([1.0, 0, 2]), 5).sum() == 0
    assert "auc" not in measures.binary_metrics(measures.binary_sums(np.array([0.3]), np.array([1.0]), 5))
