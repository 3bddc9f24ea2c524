"""The lists of words that names are weighed by: names of persons, medicine, eponyms, everyday language, municipalities.

All are read once, folded. Not here: any decision about a text (`names.py`, `candidates.py`, `places.py`).
"""

# ruff: noqa: E501 - words are data, one list a line
from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from privacy.deid.deny import fold
from privacy.deid.vocabulary import read_words
from protocol.errors import ConfigurationError

__all__ = [
    "has_term_ending",
    "is_abbreviation",
    "is_dicom",
    "is_eponym",
    "is_everyday",
    "is_given",
    "is_known",
    "is_listed",
    "is_local",
    "is_medical",
    "is_short",
    "is_term",
    "is_title",
    "is_trade",
    "is_weak",
    "municipalities",
]

_HEADS = frozenset(
    "collega colleghi gentile egregio egregia egr gent gentilissimo gentilissima caro cara dear globuli lettera".split()
)
_TERM_ENDING = re.compile(
    r"(?:zion[ei]|sion[ei]|it[àa]'?|it[ei]|os[ie]|emi[ae]|om[ai]|patia|patie|grafia|scopia|logia|metria|tomia|ectomia"
    r"|stomia|plastica|ment[eoi]|ante|anti|ente|enti|ent[oa]|uria|penia|algia|plegia|terapi[ae]|statina|pril|sartan"
    r"|mab|nib|olo|azolo|mic[oahei]{1,2}|tic[oahei]{1,2}|ric[oahei]{1,2}|nic[oahei]{1,2}|lic[oahei]{1,2}"
    r"|sic[oahei]{1,2}|bil[ei]|ativ[oaie]|ale|ali|are|ari[ao]|aria|ere|ire|at[oaie]|ut[oaie]|it[oa]|ibile|tor[ei]|trice"
    r"|ura|ure|ismo|ista|isti|enza|enze|anza|anze|ezza|isce|iscono|xaban|gliptin|glifozin|cillina|micina|ossacina"
    r"|oxacina|cef[a-z]+|amide|idone|azepam|prazolo|ling|tion|sis|ness|ment|ing|ed|ology|ectomy|scopy|gram|ous|ical"
    r"|able|ity|ive|ial|ual|eal|ary)$"
)


_DIMINUTIVE = re.compile(r"([a-z]{4,14})(?:in[oa]|ett[oa]|ucci[oa]|ell[oa])")


def is_known(word: str) -> bool:
    """Whether a word stands in a list of names; of a hyphenated one each part."""
    parts = [part for part in fold(word).replace("'", "-").split("-") if len(part) > 2]
    return is_short(word) or (bool(parts) and all(part in _known() or is_local(part) for part in parts))


def is_listed(word: str) -> bool:
    """Whether a known name is no word of medicine and none of everyday language."""
    return is_known(word) and not is_medical(word) and not is_weak(word)


def is_local(word: str) -> bool:
    """Whether a word is a name met in Italy, sure enough to stand at the start of a sentence."""
    folded = fold(word)
    if folded in _italian():
        return True
    root = _DIMINUTIVE.fullmatch(folded)
    return root is not None and any(root[1] + vowel in _package_given() for vowel in "oaei")


def is_given(word: str) -> bool:
    """Whether a word is a given name."""
    return fold(word) in _given()


def is_short(word: str) -> bool:
    """Whether a word of two or three letters is a name of some language."""
    return fold(word) in _short()


def is_term(word: str) -> bool:
    """Whether a word is medicine or everyday clinical language, an eponym, or ends like one."""
    return is_medical(word) or is_weak(word) or has_term_ending(word)


def has_term_ending(word: str) -> bool:
    """Whether a word ends as words of medicine and verbs do."""
    return _TERM_ENDING.search(fold(word)) is not None


def is_medical(word: str) -> bool:
    """Whether a word, or each part of a hyphenated one, is a term, a drug or an eponym."""
    folded = fold(word)
    parts = [part for part in re.split(r"['\-]", folded) if part]
    return folded in _medical() or (bool(parts) and all(part in _medical() or len(part) == 1 for part in parts))


def is_eponym(word: str) -> bool:
    """Whether a word, or a part of it, is a medical eponym."""
    return any(part in _eponyms() for part in [fold(word), *re.split(r"['\-]", fold(word))])


def is_everyday(word: str) -> bool:
    """Whether a word is everyday language before it is a name."""
    return fold(word) in _everyday()


def is_weak(word: str) -> bool:
    """Whether a word is also everyday language."""
    return fold(word) in _weak()


def is_dicom(word: str) -> bool:
    """Whether a word stands in the terms of the imaging standard."""
    return fold(word) in _dicom()


def is_trade(word: str) -> bool:
    """Whether a word is never a part of a name."""
    return fold(word) in _trade()


def is_abbreviation(letters: str) -> bool:
    """Whether letters with points between are no initials of a person."""
    return letters in _ABBREVIATIONS


def is_title(word: str) -> bool:
    """Whether a word stands beside names as a title or a label."""
    return fold(word) in _TITLES


# Two letters with points that are no initials of a person: "e.v.", "s.c.", "P.S.".
_ABBREVIATIONS = frozenset(
    "UO UOC UOS UOSD SOC SOD EV PO SC IV IM PS DH SN DX SX CV EO NB TC RM PA FC AA VV UU AO CC TS CF SS OD OS UO SO AP AR CI CE DM DS FE FA FV HB IP IN MC MMG "
    "PT PZ RX SNC TSA TV UOC US USL VAS VN VS AN EE LL ND NS NU NO PC PV PP SSN SPA SRL TEP TVP UI UTI OK PM AM IE EG USA UK ECG ASL AUSL "
    "RCP DL ML MG GN LN CA TA TG TD BD OR ER CT MR QD QID BID TID SOB HR BP RR BPM GP OT DEA".split()
)
_TITLES = frozenset(
    "dott dottor dottoressa dottssa ssa prof sig sigra signor signora signorina dr mr mrs ms nome cognome nato nata data "
    "cf codice sesso paziente tel via età eta moglie marito figlio figlia madre padre reparto medico cartella nosologico "
    "name surname dob mrn patient phone address born referto esame indirizzo residente residenza telefono nascita firma "
    "inf infermiere infermiera ft oss".split()
)


@lru_cache(maxsize=1)
def _italian() -> frozenset[str]:
    files = ("surnames.txt", "given.txt", "world.txt", "faker-italian.txt", "mimesis-italian.txt")
    return frozenset({fold(w) for file in files for w in read_words(file)} | _package_names())


@lru_cache(maxsize=1)
def _given() -> frozenset[str]:
    return frozenset({fold(word) for word in read_words("given.txt")} | _package_names())


@lru_cache(maxsize=1)
def _package_given() -> frozenset[str]:
    return frozenset(_package_names())


def _package_names() -> set[str]:
    return {fold(part) for sex in ("M", "F") for name in _package_data("names.json")[sex] for part in name.split()}


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    return _italian() | {fold(word) for word in read_words("faker-world.txt")}


@lru_cache(maxsize=1)
def _short() -> frozenset[str]:
    return frozenset(fold(word) for word in read_words("short.txt"))


@lru_cache(maxsize=1)
def municipalities() -> frozenset[str]:
    """Italian municipalities, past ones too, and towns abroad, folded."""
    abroad = {fold(word.replace("_", " ")) for word in read_words("cities.txt")}
    return frozenset(abroad | {fold(entry["name"]) for entry in _package_data("municipalities.json")})


@lru_cache(maxsize=1)
def _eponyms() -> frozenset[str]:
    return frozenset(map(fold, read_words("eponyms.txt")))


@lru_cache(maxsize=1)
def _everyday() -> frozenset[str]:
    return frozenset(fold(word) for word in read_words("common.txt"))


@lru_cache(maxsize=1)
def _weak() -> frozenset[str]:
    return _everyday().union(fold(word) for word in read_words("homographs.txt"))


@lru_cache(maxsize=1)
def _dicom() -> frozenset[str]:
    return frozenset(fold(word) for word in read_words("dicom.txt"))


@lru_cache(maxsize=1)
def _trade() -> frozenset[str]:
    files = ("imaging.txt", "clinical.txt", "drugs.txt")
    return frozenset(fold(word) for file in files for word in read_words(file)) - {"marco", "sala", "eco"} | _HEADS


@lru_cache(maxsize=1)
def _medical() -> frozenset[str]:
    return _trade() | _dicom() | _eponyms()


def _package_data(name: str) -> Any:
    """A data file of python-codicefiscale.

    Raises:
        ConfigurationError: `config.extra-missing` without it.
    """
    import json
    from importlib.resources import files

    try:
        return json.loads(files("codicefiscale").joinpath("data", name).read_text("utf-8"))
    except (ModuleNotFoundError, FileNotFoundError):
        raise ConfigurationError("config.extra-missing", "pip install 'corsia[edge]'") from None
