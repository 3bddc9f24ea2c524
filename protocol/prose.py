"""A study in words: what a person reads before he submits, approves or refuses it; the same at centre and site.

Pure: a study in, headed sentences out. Values of the study stand in them as they are; whoever shows them escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from protocol.study import Condition, Lane, Study
from protocol.words import Words

__all__ = ["Said", "prose"]

Said = tuple[str, list[str]]  # a heading and its sentences


def prose(study: Study, say: Words) -> list[Said]:
    """The study as headed sentences, in the order in which they are asked about.

    Args:
        say: the words of a language (`protocol.words.words`).
    """
    parts: list[tuple[str, Callable[[Study, Words], Iterator[str]]]] = [
        ("who", _who),
        ("what", _what),
        ("leaves", _leaves),
        ("protects", _protects),
        ("training", _training),
    ]
    return [(say(f"prose.{name}"), found) for name, of in parts if (found := list(of(study, say)))]


def _who(study: Study, say: Words) -> Iterator[str]:
    yield say("prose.asks", controller=study.controller, purpose=study.purpose)
    if study.description:
        yield study.description
    yield say("prose.grounds", basis=say.named(study.legal_basis, "basis"), ethics=study.ethics_reference)
    yield say(
        "prose.until", day=f"{study.expires:%Y-%m-%d %H:%M} UTC", sites=", ".join(study.sites), n=len(study.sites)
    )


def _what(study: Study, say: Words) -> Iterator[str]:
    data = study.dataset
    columns = ", ".join(data.columns) or say("prose.no_columns")
    yield say("prose.reads", dataset=data.name, columns=columns)
    asked = [kind for kind in ("images", "fhir", "genotypes", "matrix", "omop") if getattr(data, kind)]
    if asked:
        yield say("prose.also", kinds=", ".join(say(f"prose.{kind}") for kind in asked))
    if data.where:
        yield say("prose.where", conditions="; ".join(_condition(one) for one in data.where))
    yield say("prose.runs", name=study.pipeline.name, version=study.pipeline.version)
    if study.pipeline.plugin is not None:
        yield say("prose.plugin", plugin=study.pipeline.plugin)


def _leaves(study: Study, say: Words) -> Iterator[str]:
    yield say(f"prose.lane_{study.lane.value}")
    if study.lane is Lane.INFER and study.model is not None:
        yield say("prose.model", name=study.model.name, alias=study.model.alias)
        return
    out = study.output
    if out.columns:
        yield say("prose.columns", columns=", ".join(f"{one.name} ({one.dtype})" for one in out.columns))
    if out.files:
        yield say("prose.files")
    if out.documents:
        yield say("prose.documents")
    yield say("prose.bytes", mb=f"{out.max_bytes / 1e6:g}")


def _protects(study: Study, say: Words) -> Iterator[str]:
    p = study.privacy
    yield say("prose.k", k=p.k, cohort=p.min_cohort)
    if p.l is not None or p.t is not None:
        limits = [f"l = {p.l:g} ({p.l_kind})"] if p.l is not None else []
        limits += [f"t = {p.t:g}"] if p.t is not None else []
        yield say("prose.sensitive", columns=", ".join(p.sensitive), limits=", ".join(limits))
    if p.dp != "none" and p.epsilon is not None and p.delta is not None:
        yield say(f"prose.dp_{p.dp}", epsilon=f"{p.epsilon:g}", delta=f"{p.delta:g}")
    else:
        yield say("prose.no_dp")
    if study.training is not None:
        yield say("prose.masked" if p.secure_aggregation else "prose.unmasked")


def _training(study: Study, say: Words) -> Iterator[str]:
    t = study.training
    if t is None:
        return
    yield say("prose.learns", learner=t.learner, outcome=", ".join(t.outcome), features=", ".join(t.features))
    yield say("prose.rounds", rounds=t.rounds, most=t.max_rounds, strategy=t.strategy, steps=t.local_steps)
    if t.metrics and not study.privacy.secure_aggregation:
        yield say("prose.site_metrics", metrics=", ".join(t.metrics))
    else:
        yield say("prose.no_site_metrics")
    yield say("prose.publishes", model=t.publish.model, alias=t.publish.alias)


def _condition(one: Condition) -> str:
    value = one.value if not isinstance(one.value, tuple) else ", ".join(map(str, one.value))
    return f"{one.column} {one.op}" + ("" if value is None else f" {value}")
