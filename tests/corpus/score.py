"""Precision and recall of an engine on notes of the corpus, per entity; and how much of the medicine stays."""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tests.corpus.generate import Note

Finder = Callable[[Note], Sequence[tuple[int, int, str]]]


def score(notes: Sequence[Note], find: Finder) -> tuple[dict[str, dict[str, float]], list[tuple[str, str]]]:
    """Per entity: n, recall (every letter and digit of the span covered), precision (predictions of that kind that touch an
    identifier); under `keep`: recall is the part untouched. And the failures, as (kind, text).
    """
    total: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    right: Counter[str] = Counter()
    failures: list[tuple[str, str]] = []
    for note in notes:
        spans = find(note)
        covered = {i for start, end, _ in spans for i in range(start, end)}
        identifying = {i for g in note.gold if g.entity != "keep" for i in range(g.start, g.end)}
        for gold in note.gold:
            total[gold.entity] += 1
            letters = {i for i in range(gold.start, gold.end) if note.text[i].isalnum()}
            ok = not letters & covered if gold.entity == "keep" else letters <= covered
            hit[gold.entity] += ok
            if not ok:
                failures.append((gold.entity, note.text[max(0, gold.start - 30) : gold.end + 12]))
        for start, end, label in spans:
            predicted[label] += 1
            touches = any(i in identifying for i in range(start, end))
            right[label] += touches
            if not touches:
                failures.append(
                    (f"extra {label}", note.text[max(0, start - 20) : end + 10] + " -> " + note.text[start:end])
                )
    table = {
        entity: {
            "n": total[entity],
            "recall": hit[entity] / total[entity] if total[entity] else 1.0,
            "precision": right[entity] / predicted[entity] if predicted[entity] else 1.0,
        }
        for entity in sorted(set(total) | set(predicted))
    }
    return table, failures
