"""What a study is to predict: a yes or no, a number, or the time to an event; and columns that give it away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corsia.drafts.cohort import Cohort, Shared
from corsia.drafts.column import Kind
from corsia.drafts.names import near
from pipelines.learners.vocabulary import Spellings, level
from privacy.deid.deny import fold
from protocol.errors import InputError

__all__ = ["Outcome", "candidates", "choose"]

_YES = frozenset(
    "1 yes y si s true t vero positive positivo positiva pos event evento dead died death deceased deceduto deceduta "
    "morto morta exitus decesso malato malata case caso present presente relapse recidiva progression "
    "progressione".split()
)
_NO = frozenset(
    "0 no n false f falso negative negativo negativa neg censored censurato alive vivo viva vivente sano sana healthy "
    "control controllo absent assente none nessuno".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is predicted.

    Attributes:
        learner: `tabular` or `survival`.
        columns: one, or time and event.
        parameters: of the pipeline: task, positive and negative, event and censored.
        notes: what was assumed.
    """

    learner: str
    columns: tuple[str, ...]
    parameters: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())

    @property
    def task(self) -> str:
        """`binary`, `continuous` or `survival`."""
        return str(self.parameters.get("task", "survival"))


def candidates(cohort: Cohort) -> list[str]:
    """Columns that could be an outcome: those with two values first."""
    two = [s.name for s in cohort.shared.values() if s.distinct == 2]
    numbers = [s.name for s in cohort.shared.values() if s.kind is Kind.NUMBER and s.distinct > 2]
    return two + numbers


def choose(
    cohort: Cohort, *, outcome: str = "", time: str = "", event: str = "", positive: str = "", negative: str = ""
) -> Outcome:
    """Find out what the named outcome is.

    Args:
        positive, negative: values that mean yes and no.

    Raises:
        InputError: `input.usage` naming candidates, or why the column cannot be predicted.
    """
    if outcome and (time or event):
        raise InputError("input.usage", "give --outcome, or --time and --event")
    if bool(time) != bool(event):
        raise InputError("input.usage", "--time and --event go together")
    if time:
        return _survival(cohort, _column(cohort, time), _column(cohort, event), positive, negative)
    if not outcome:
        named = ", ".join(map(repr, candidates(cohort)[:12])) or "none found"
        raise InputError("input.usage", f"say what to predict: --outcome NAME, or --time and --event; there is {named}")
    column = _column(cohort, outcome)
    if positive or negative or column.distinct == 2:
        yes, no, notes = _two(column, positive, negative)
        told = {"task": "binary"} | ({"positive": yes} if yes is not None else {})
        told |= {"negative": no} if no is not None else {}
        return Outcome(learner="tabular", columns=(outcome,), parameters=told, notes=tuple(notes))
    if column.distinct < 2:
        raise InputError("input.usage", f"column {outcome!r} has one value in all files: nothing to predict")
    if column.kind is Kind.CATEGORY:
        levels = ", ".join(column.levels[:8])
        raise InputError(
            "input.usage",
            f"column {outcome!r} has {column.distinct} values ({levels}): say one of them with --positive",
        )
    note = []
    if column.distinct <= 10 and all(value.is_integer() for value in column.values):
        note = [f"{outcome!r} has {column.distinct} whole values and is taken as a number; for yes or no say which "
                "value is --negative, or --positive"]  # fmt: skip
    return Outcome(learner="tabular", columns=(outcome,), parameters={"task": "continuous"}, notes=tuple(note))


def _column(cohort: Cohort, name: str) -> Shared:
    if name in cohort.shared:
        return cohort.shared[name]
    everywhere = [site for site, file in cohort.files.items() if name in file.columns]
    if len(everywhere) == len(cohort.files):
        kinds = sorted({str(file.columns[name].kind) for file in cohort.files.values()})
        raise InputError("input.usage", f"column {name!r} cannot be an outcome: it is {' and '.join(kinds)}")
    if everywhere:
        missing = [site for site in cohort.files if site not in everywhere]
        raise InputError("input.usage", f"column {name!r} is not at {', '.join(missing)}")
    alike = near(name, [n for file in cohort.files.values() for n in file.columns])
    hint = f"; did you mean {' or '.join(map(repr, alike))}?" if alike else ""
    named = ", ".join(map(repr, candidates(cohort)[:12])) or "none found"
    raise InputError("input.usage", f"no column {name!r}{hint} Possible: {named}" if hint else
                     f"no column {name!r}; possible: {named}")  # fmt: skip


def _texts(column: Shared) -> list[str]:
    return [level(value) for value in sorted(column.values)] if column.kind is Kind.NUMBER else sorted(column.counts)


def _scalar(text: str, column: Shared) -> Any:
    """As the table has it: numbers as numbers."""
    if column.kind is not Kind.NUMBER:
        return text
    number = float(text)
    return int(number) if number.is_integer() else number


def _known(word: str, texts: Sequence[str], column: Shared) -> str:
    at = Spellings(texts).find(level(word))
    if at is None:
        raise InputError(
            "input.usage", f"column {column.name!r} has no value {word!r}; there is {', '.join(texts[:8])}"
        )
    return texts[at]


def _two(column: Shared, positive: str, negative: str) -> tuple[Any, Any, list[str]]:
    """Positive and negative value; None where all other values mean it."""
    texts = _texts(column)
    yes = _known(positive, texts, column) if positive else None
    no = _known(negative, texts, column) if negative else None
    if yes is not None and yes == no:
        raise InputError("input.usage", "--positive and --negative are the same value")
    notes: list[str] = []
    if len(texts) == 2:
        if yes is None and no is None:
            yes, why = _positive(column, texts)
            notes.append(f"{column.name!r}: {yes!r} counts as yes{why}")
        yes = next(t for t in texts if t != no) if yes is None else yes
        no = next(t for t in texts if t != yes)
    elif yes is None or no is None:
        notes.append(f"{column.name!r}: {yes or no!r} against the other {len(texts) - 1} values")
    named = [None if text is None else _scalar(text, column) for text in (yes, no)]
    return named[0], named[1], notes


def _positive(column: Shared, texts: Sequence[str]) -> tuple[str, str]:
    for text, other in ((texts[0], texts[1]), (texts[1], texts[0])):
        yes = fold(text) in _YES and fold(other) not in _YES
        no = fold(other) in _NO and fold(text) not in _NO
        if yes or no:
            return text, ""
    if column.kind is Kind.NUMBER:
        return texts[1], " (the larger number; --positive says otherwise)"
    rarer = min(texts, key=lambda text: (column.counts[text], text))
    return rarer, " (the rarer value; --positive says otherwise)"


def _survival(cohort: Cohort, time: Shared, event: Shared, positive: str, negative: str) -> Outcome:
    if time.name == event.name:
        raise InputError("input.usage", "--time and --event name one column")
    if time.kind is not Kind.NUMBER:
        raise InputError("input.usage", f"column {time.name!r} is no number: a time in days or months is needed")
    if event.distinct < 2 and not positive:
        raise InputError("input.usage", f"column {event.name!r} has one value in all files: no event to predict")
    if event.distinct > 2 and not (positive and negative):
        raise InputError(
            "input.usage", f"column {event.name!r} has {event.distinct} values: say --positive (event) and --negative"
        )
    yes, no, notes = _two(event, positive, negative)
    lost = sum(count for value, count in time.values.items() if value <= 0)
    if lost:
        notes.append(f"{time.name!r}: {lost} rows have a time of 0 or less and are not used")
    middle = _middle(time.values)
    notes.append(f"{time.name!r}: half of the times lie below {middle:g}, probably {_unit(time.name, middle)}")
    return Outcome(
        learner="survival", columns=(time.name, event.name), parameters={"event": yes, "censored": no},
        notes=tuple(notes),
    )  # fmt: skip


def _middle(values: Mapping[float, int]) -> float:
    half, seen = sum(values.values()) / 2, 0
    for value in sorted(values):
        seen += values[value]
        if seen >= half:
            return value
    return 0.0


def _unit(name: str, middle: float) -> str:
    folded = fold(name)
    for word, unit in (("mes", "months"), ("month", "months"), ("ann", "years"), ("year", "years"), ("giorn", "days"),
                       ("day", "days")):  # fmt: skip
        if word in folded:
            return unit
    return "days" if middle > 150 else "months" if middle > 6 else "years"
