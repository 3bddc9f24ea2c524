"""What of the words after a title, a label or a relation is a name: `trimmed` cuts a candidate of `patterns.py`.

A strong title makes a name of nearly anything; a relation (moglie, paziente) needs more. Not here: names that stand
without such a word before them (`names.py`).
"""

# ruff: noqa: E501 - words of a pattern are data
from __future__ import annotations

import re

from privacy.deid import wordlists
from privacy.deid.deny import fold

__all__ = ["EPONYM_AFTER", "EPONYM_NOUN", "PARTICLE", "TOKEN", "UPPER", "shouting", "trimmed"]

_UP = "".join(c for c in map(chr, range(0x41, 0x250)) if c.isupper()) + "ẠẢẤẦẨẬẮẰẸẺẼẾỀỂỄỆỈỊỌỎỐỒỔỘỚỜỢỤỦỨỪỮỰỲỴ"
UPPER = f"[{_UP}]"
PARTICLE = (
    r"(?:De|Di|Da|Del|Della|Dell|Dalla|Dalle|Dall|Dello|Degli|Dei|Delle|Dal|Lo|La|Le|Li|Van|Von|Der|Den|van|von|der|den"
    r"|El|Al|Ben|Bin|Abd|Mc|Mac|Dos|da|de|di|dos|d|O|D|DE|DI|DA|DEL|DELLA|DELL|DALLA|DALL|DALLE|DEGLI|DELLO|DELLE|DEI|DAL"
    r"|LO|LA|LE|LI|VAN|DER|EL|AL|BEN|St|San|Dela|DELA)"
)
TOKEN = re.compile(r"[^\W\d_]{1,40}(?:['\-][^\W\d_]{1,40}){0,4}")
EPONYM_NOUN = re.compile(
    r"(?:'s|s')?[ \-](?:score|disease|syndrome|sign|test|scale|grade|stage|criteria|fracture|palsy|index|lymphoma|ulcer|esophagus|procedure|catheter|classification|tubercle|node|tumou?r|cyst"
    r"|maneuver|manoeuvre|forceps|clamp|drain|needle|retractor|valve|shunt|tube|stent|position|incision|hernia|operation|repair|technique|method|reflex|phenomenon|thyroiditis|palsies|canal"
    r"|triangle|triad|tetralogy|ileostomy|contracture|anomaly|malformation|dystrophy|ataxia|chorea|aphasia|encephalopathy|nodules?|bodies|cells?|stain|equation|formula|ratio|rings?|murmur)\b",
    re.IGNORECASE,
)
EPONYM_AFTER = re.compile(
    r"(?:'s|s')?[\s\-]{1,2}(?:score|disease|syndrome|sign|test|scale|grade|stage|criteria|fracture|palsy|index|lymphoma|negativ|positiv"
    r"|assente|presente|ulcer|esophagus|procedure|catheter|classification|tubercle|node|tumou?r|cyst|maneuver|libero|\d|\+|-|:)",
    re.IGNORECASE,
)
_PARTICLE_WORD = re.compile(PARTICLE)
_FOREIGN_PARTICLE = frozenset("van von der den dos bin ben de".split())  # no words of Italian or English
_PARTICLES_BEFORE = re.compile(rf"(?:(?<![^\W_]){PARTICLE}['\s]){{1,2}}$")
_IN_GAP = re.compile(rf"(?<!\w){PARTICLE}(?:[ \t]|')")
_GAP = re.compile(r"[.,']?[ \t]*(?:(?:,|/|-|\be\b|\bed\b|&|and)[ \t]*)?")
_INITIAL_AFTER = re.compile(rf",?[ ]{UPPER}\.(?!\w)|,[ ]{UPPER}\w")
_GIVEN_AFTER = re.compile(rf",[ ]{UPPER}\w")
_UNITS = frozenset("UO UOC UOS UOSD SSD DEA".split())
_AND = frozenset(("e", "ed", "and"))


def trimmed(text: str, start: int, end: int, kind: str) -> list[tuple[int, int]]:
    """What of a candidate after a title, a label or a relation is a name.

    Args:
        text: the whole text.
        start: of the candidate.
        end: of the candidate.
        kind: `titled` (sig., dott.: nearly anything is a name), `labelled` (Nome:), `related` (moglie, paziente: a
            capital alone is weak evidence), `lower` (in lower case after a relation: only known names), `short`
            (in lower case after sig., dr.: what is no word).
    """
    first = last = -1
    joined = False
    loud = kind != "titled" and shouting(text, start)
    for word in TOKEN.finditer(text, start, end):
        if first >= 0 and not _close(text, last, word.start()):
            break
        step = _step(text, word, kind, loud, first >= 0)
        if step == "stop" and not (joined and word[0].istitle() and not wordlists.is_title(word[0])):
            break
        # After a particle with a capital (Dalla Costa) a capital is enough.
        joined = step == "skip" and word[0].istitle() and len(word[0]) > 1
        if step != "skip":
            first, last = (word.start() if first < 0 else first), word.end()
    if first < 0 or (kind != "titled" and len(text[first:last]) == 1 and text[last : last + 1] != "."):
        return []
    letters = [word[0] for word in TOKEN.finditer(text, first, last)]
    if all(len(letter) == 1 for letter in letters) and "".join(letters) in _UNITS:
        return []
    if text[last : last + 1] == "." and text[last - 1].isupper() and (last - 2 < 0 or not text[last - 2].isalpha()):
        last += 1
    lead = (
        _PARTICLES_BEFORE.search(text, start, first)
        if first > start and (kind == "short" or text[start].isupper())
        else None
    )
    return [(lead.start() if lead else first, last)]


def _close(text: str, last: int, at: int) -> bool:
    """Whether only blanks, particles and one sign stand between two words."""
    if text[last] == "." and text[last - 2 : last - 1].isalpha():  # the end of a sentence, not of an initial
        return False
    return _GAP.fullmatch(_IN_GAP.sub("", text[last:at])) is not None


def _step(text: str, word: re.Match[str], kind: str, loud: bool, going: bool) -> str:
    written, after = word[0], text[word.end() : word.end() + 1]
    if len(written) == 1 and (written.isupper() or after == "."):
        return "skip" if written.lower() == "e" and after != "." else "take"
    if kind == "related" and not going and fold(written) in ("di", "of"):
        return "skip"
    if _PARTICLE_WORD.fullmatch(written) and after in (" ", "'") and kind != "lower":
        if wordlists.is_short(written) and written[0].isupper() and not going and _short_pair(text, word, kind):
            return "take"
        foreign = kind == "titled" and written in _FOREIGN_PARTICLE
        return "skip" if going or foreign or kind == "short" or not written.islower() else "stop"
    if fold(written) in _AND:
        return "skip"
    return "take" if _fits(text, word, kind, loud, going) else "stop"


def _short_pair(text: str, word: re.Match[str], kind: str) -> bool:
    """Whether a short word stands before nothing, or before another short name: "sig.ra Li", "paz. Li Na"."""
    following = TOKEN.match(text, word.end() + 1)
    if following is None or not following[0][0].isupper():
        return kind == "titled"
    return wordlists.is_short(following[0])


def _before_listed(text: str, end: int) -> bool:
    following = TOKEN.match(text, end + 1)
    return (
        following is not None and text[end] == " " and following[0][0].isupper() and wordlists.is_listed(following[0])
    )


def _fits(text: str, word: re.Match[str], kind: str, loud: bool, going: bool) -> bool:
    """Whether one word belongs to the name that a title or a label announces."""
    written = word[0]
    if written.istitle() and wordlists.is_short(written) and not loud and _short_pair(text, word, "related"):
        return True
    if wordlists.is_title(written) or (wordlists.is_trade(written) and kind != "short"):
        return kind == "titled" and going and written[1:].islower() and wordlists.is_local(written)
    if kind in ("lower", "short") or not written[0].isupper():
        return _fits_lower(written, kind, going)
    weak, known, local = wordlists.is_weak(written), wordlists.is_known(written), wordlists.is_local(written)
    if len(written) < 4 and not loud and wordlists.is_short(written):
        return kind != "related" or going or not wordlists.is_term(written) or _short_pair(text, word, kind)
    if kind == "titled" and not going:
        return _fits_title(text, word, known)
    if not going and wordlists.is_eponym(written) and _before_listed(text, word.end()):
        return True
    if known and (not loud or not weak):
        return kind != "related" or going or not (weak and not local) or not loud
    return _fits_unknown(text, word, kind, loud, going)


def _fits_unknown(text: str, word: re.Match[str], kind: str, loud: bool, going: bool) -> bool:
    """A word in no list of names, or one that capitals say nothing of: a name unless it is a term or ends like one."""
    written = word[0]
    if loud and kind == "related" and "," in text[word.start() - 2 : word.start()]:
        return False
    if not wordlists.is_term(written):
        return True
    if wordlists.is_weak(written):
        return False
    medical = wordlists.is_medical(written)
    if going and not loud and written.istitle() and wordlists.is_eponym(written):
        return not (EPONYM_AFTER.match(text, word.end()) or EPONYM_NOUN.match(text, word.end()))
    follows = _GIVEN_AFTER if loud else _INITIAL_AFTER
    if kind == "labelled" and not medical and follows.match(text, word.end()):
        return True
    return going and (not medical or wordlists.is_local(written)) and (kind != "related" or not loud)


def _fits_title(text: str, word: re.Match[str], known: bool) -> bool:
    written = word[0]
    if known or wordlists.is_eponym(written) or not wordlists.is_term(written):
        return True
    if wordlists.is_weak(written) or wordlists.is_dicom(written):
        return written[1:].islower() and len(written) < 4 and text[word.end() : word.end() + 1] != ":"
    return True


def _fits_lower(written: str, kind: str, going: bool) -> bool:
    """A word in lower case: a known name that is no word; after an abbreviated title also an unknown one."""
    if kind == "short":
        return _fits_typed(written, going)
    if wordlists.is_medical(written) or wordlists.is_weak(written):
        return False
    return wordlists.is_known(written) and kind != "related" and (kind == "labelled" or wordlists.is_local(written))


def _fits_typed(written: str, going: bool) -> bool:
    """After "sig." or "mr": any name that is no everyday word first, then also what is no word at all."""
    if wordlists.is_everyday(written) and not (wordlists.is_known(written) if going else wordlists.is_given(written)):
        return False
    if wordlists.is_known(written) and (not going or not wordlists.is_medical(written) or wordlists.is_eponym(written)):
        return True
    unknown = not wordlists.is_term(written) and len(written) > 3
    return unknown or (not going and "'" in written and len(written) > 4)


def shouting(text: str, at: int) -> bool:
    """Whether the words around are all upper case, so that capitals say nothing."""
    start = max(text.rfind("\n", max(0, at - 80), at) + 1, at - 80, 0)
    end = text.find("\n", at, at + 80)
    letters = [c for c in text[start : end if end != -1 else at + 80] if c.isalpha()]
    return sum(c.isupper() for c in letters) > 0.7 * len(letters)
