"""A lane's report on its way out: canonical JSON of numbers and short words, and which words are the lanes' own.

Used by the egress gate, which compares every other word with the source's cells. Nothing here decides.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from protocol.parcel import canonical_json

__all__ = ["MAX_REPORT_BYTES", "OWN", "is_canonical", "is_plain", "words"]

MAX_REPORT_BYTES = 1 << 20
_WORD = re.compile(r"^[^\x00-\x1f\x7f]{0,64}\Z")
# Words of reports and certificates that tables hold as well (an insurance is `private`, a stage `unknown`): a lane that
# writes one tells nothing of a row.
OWN = frozenset(
    """
    achieved actions add-or-remove-one-patient adjacency auto basic binary boxes burned-in certificate changed code
    columns consent counts date deidentified-before delta discernibility discrete-gaussian distinct documents
    dropped dummy duplicate edition elements emptied entropy epsilon exclusions files generalised heuristic hits
    journalist k kept kept-place key_id kind l level levels limit looked loss marketer max mean mechanism metric
    moved-date multiplier name ncp nodes noise number optimal options ordered persons pixels place population
    private profile prosecutor pseudonym quarantine reason records recursive released removed required residual
    resources risk rows rules search searched second_look shifted short small-class suppressed t table text
    threshold uid unchanged unknown unique_rows unreadable vocabulary withheld withdrawn
    """.split()
)


def is_canonical(data: bytes) -> bool:
    """Whether a report is one JSON object in the one way it can be written."""
    if len(data) > MAX_REPORT_BYTES:
        return False
    try:
        value = json.loads(data)
        return isinstance(value, dict) and canonical_json(value) == data
    except (ValueError, RecursionError):
        return False


def is_plain(word: object) -> bool:
    """Whether a key or leaf is a finite number or a short word."""
    if isinstance(word, str):
        return bool(_WORD.match(word))
    return isinstance(word, bool | int) or (isinstance(word, float) and math.isfinite(word))


def words(data: bytes) -> list[Any]:
    """All keys and leaves of a report; null is none."""
    found: list[Any] = []
    todo = [json.loads(data)]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            found += one.keys()
            todo += one.values()
        elif isinstance(one, list):
            todo += one
        elif one is not None:
            found.append(one)
    return found
