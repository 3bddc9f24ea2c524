"""Free text against the corpus of the project's own tests: ours, and presidio with its own recognizers, in one process.

    run() -> {"notes": 396, "presidio_pipeline": "...", "presidio": {...},
              "corsia": {"recall": {"name": 0.98, ...}, "precision": 0.99, "kept": 1.0, "ms_per_note": 12.7}}

The corpus is `tests/corpus` of the source tree, so there are figures only where that is at hand. presidio runs with its
predefined recognizers over a blank spaCy pipeline: no model with names is installed with the product, so what is
compared is its patterns; names, places and hospitals are then zero by construction, and the result says so.
Not here: the other peers (`bench_deid.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

__all__ = ["run"]

_NOTES, _SEED = 396, 7
_LANGUAGES = ("it", "en")
_PIPELINE = "blank spaCy pipeline: presidio's pattern recognisers only, no named-entity model"
Find = Callable[[Any], Sequence[tuple[int, int, str]]]


def run() -> dict[str, Any]:
    """Recall by entity, precision over all, the part of eponyms kept; `missing` without the source tree's corpus."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "tests" / "corpus" / "scoring.py").is_file():
        return {"missing": "tests/corpus: run from the source tree"}
    sys.path.insert(0, str(root))  # an installed command has the source tree not on its path
    try:
        generate, scoring = import_module("tests.corpus.generate"), import_module("tests.corpus.scoring")
        score = import_module("tests.corpus.score").score
    finally:
        sys.path.remove(str(root))
    notes = generate.corpus(scoring.MATERIAL, _NOTES, seed=_SEED)
    out: dict[str, Any] = {"notes": len(notes), "presidio_pipeline": _PIPELINE}
    for name, find in (("corsia", _ours()), ("presidio", _presidio())):
        find(notes[0])
        start = time.perf_counter()
        found = {id(note): find(note) for note in notes}
        spent = time.perf_counter() - start
        table, failures = score(notes, lambda note, found=found: found[id(note)])
        wrong = sum(kind.startswith("extra") for kind, _ in failures)
        out[name] = {
            "recall": {
                entity: round(row["recall"], 3) for entity, row in table.items() if row["n"] and entity != "keep"
            },
            "precision": round(1 - wrong / sum(map(len, found.values())), 3),
            "kept": round(table["keep"]["recall"], 3),
            "ms_per_note": round(1000 * spent / len(notes), 2),
        }
    return out


def _ours() -> Find:
    from privacy.deid.text import TextEngine

    engines = {"it": TextEngine("it"), "en": TextEngine("en")}
    return lambda note: [(span.start, span.end, span.label) for span in engines[note.lang].redact(note.text)[1]]


def _presidio() -> Find:
    """presidio's defaults; its list of public suffixes is the one it ships, so that nothing is fetched."""
    with catch_warnings():
        simplefilter("ignore")  # its dependencies warn at import
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine

        blank = {lang: spacy.blank(lang) for lang in _LANGUAGES}

        class Blank(SpacyNlpEngine):  # type: ignore[misc]
            """A pipeline that is loaded already."""

            def __init__(self) -> None:
                super().__init__(models=[{"lang_code": lang, "model_name": "blank"} for lang in _LANGUAGES])
                self.nlp = blank

        offline = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
        registry = RecognizerRegistry(supported_languages=list(_LANGUAGES))
        registry.load_predefined_recognizers(languages=list(_LANGUAGES))
        analyzer = AnalyzerEngine(registry=registry, nlp_engine=Blank(), supported_languages=list(_LANGUAGES))

    def find(note: Any) -> list[tuple[int, int, str]]:
        kept, tldextract.extract = tldextract.extract, offline
        try:
            results = analyzer.analyze(note.text, note.lang)
        finally:
            tldextract.extract = kept
        return [(result.start, result.end, result.entity_type) for result in results]

    return find
