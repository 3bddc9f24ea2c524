"""Names of persons in clinical text without a model: lists of names weighed against the words of medicine.

A title, a label or a relation before a word makes it a name whatever it is (`patterns.py`). Here are the rest:
neighbours of which one is a known name, known names alone, initials, and what was found once, found again.
Eponyms, drugs and the words of the trade count against a name. Not here: places, hospitals, the deny-list.
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from privacy.deid.deny import fold
from privacy.deid.vocabulary import read_words
from protocol.errors import ConfigurationError

__all__ = [
    "find_names",
    "is_eponym",
    "is_known",
    "is_medical",
    "is_term",
    "is_trade",
    "is_weak",
    "municipalities",
    "repeated",
    "trimmed",
]

_UP = "".join(c for c in map(chr, range(0x41, 0x250)) if c.isupper()) + "ẠẢẤẦẨẬẮẰẸẺẼẾỀỂỄỆỈỊỌỎỐỒỔỘỚỜỢỤỦỨỪỮỰỲỴ"
UPPER = f"[{_UP}]"
_PARTICLE = (
    r"(?:De|Di|Da|Del|Della|Dalla|Dello|Degli|Dei|Delle|Dal|Lo|La|Le|Li|Van|Von|von|van|El|Al|Ben|Bin|Abd|Mc|Mac|Dos|da|de"
    r"|di|dos|O|D|DE|DI|DA|DEL|DELLA|DALLA|LO|LA|LE|LI|VAN|EL|AL|BEN|St|San)"
)
_TOKEN = re.compile(r"[^\W\d_]{1,40}(?:['\-][^\W\d_]{1,40}){0,4}")
# Words in a row with nothing between but blanks, particles, initials and one comma or stroke.
_RUN = re.compile(
    rf"(?<![\w'@./])(?:{_PARTICLE}['\s])?{UPPER}[\w'\-]{{0,40}}\.?"
    rf"(?:[ \t]{{0,3}}[,;|/]?[ \t]{{1,3}}(?:{_PARTICLE}(?:[ \t]|')){{0,2}}{UPPER}[\w'\-]{{0,40}}\.?){{1,9}}"
)
_LOWER_RUN = re.compile(r"(?<![\w'@./])[a-zà-ÿ]{3,20}[ \t][a-zà-ÿ]{3,20}(?![\w@/])")
_INITIALS = re.compile(rf"(?<![\w.])(?:{UPPER}\.[ ]?){{2,3}}(?![\w])")
_INITIAL_NAME = re.compile(
    rf"(?<![\w.])(?:{UPPER}\.[ \t]?){{1,3}}(?:{_PARTICLE}[ '])?(?P<v>{UPPER}[\w'\-]{{2,30}})(?![\w.]?[\d(])"
)
_NAME_INITIAL = re.compile(rf"(?<![\w.'])(?P<v>{UPPER}[\w'\-]{{2,30}})[ \t](?:{UPPER}\.[ ]?){{1,2}}(?!\w)")
_FOREIGN = re.compile(r"[\u0400-\u052f\u0530-\u07bf\u0900-\u1fff\u3040-\ud7ff\uf900-\ufaff\ufb1d-\ufefc]{2,}"
                      r"|[\u0370-\u03ff]{4,}|[\u3040-\u9fff]")  # fmt: skip
EPONYM_BEFORE = re.compile(
    r"(?<![^\W_])(?:malattia|globuli|morbo|sindrome|sdr|segno|segni|fenomeno|linfoma|scala|score|indice|punteggio|classificazione|classe|criteri[oa]?"
    r"|tumore|sarcoma|esofago|manovra|test|ernia|diverticolo|legamento|morbus|m|s|l|stadio|grado|cisti|frattura|catetere|drenaggio"
    r"|intervento|anello|anatomia|tripode|malattie|reazione|equazione|formula|metodo|tecnica|linea|triangolo|cavo|spazio|ampolla"
    r"|sfintere|papilla|dotto|ghiandol[ae]|tuba|tube|loggia|fascia|tetralogia|triade|corea|atassia|anemia|virus|paralisi|neuroma"
    r"|disease|syndrome|sign|lymphoma|scale|grade|stage|criteria|fracture|palsy|angina|cyst|tumou?r|esophagus|duct|by)"
    r"\.?\s{1,2}(?:(?:di|de|del|della|dell'|d'|of|sec\.|secondo|non[- ])\s{0,2})?$",
    re.IGNORECASE,
)
_EPONYM_AFTER = re.compile(
    r"(?:'s|s')?[\s\-]{1,2}(?:score|disease|syndrome|sign|test|scale|grade|stage|criteria|fracture|palsy|index|lymphoma|negativ|positiv"
    r"|assente|presente|ulcer|esophagus|procedure|catheter|classification|tubercle|node|tumou?r|cyst|maneuver|libero|\d|\+|-|:)",
    re.IGNORECASE,
)
# Two letters with points that are no initials of a person: "e.v.", "s.c.", "P.S.".
_ABBREVIATIONS = frozenset(
    "EV PO SC IV IM PS DH SN DX SX CV EO NB TC RM PA FC AA VV UU AO CC TS CF SS OD OS UO SO AP AR CI CE DM DS FE FA FV HB IP IN MC MMG "
    "PT PZ RX SNC TSA TV UOC US USL VAS VN VS AN EE LL ND NS NU NO PC PV PP SSN SPA SRL TEP TVP UI UTI OK PM AM IE EG USA UK ECG ASL AUSL "
    "RCP DL ML MG GN LN CA TA TG TD BD OR ER CT MR QD QID BID TID SOB HR BP RR BPM GP OT DEA".split()
)
_HEADS = frozenset(
    "collega colleghi gentile egregio egregia egr gent gentilissimo gentilissima caro cara dear globuli lettera".split()
)
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\r\t\-(•*|>]\s{0,3})$")
_TERM_ENDING = re.compile(
    r"(?:zion[ei]|sion[ei]|it[àa]'?|it[ei]|os[ie]|emi[ae]|om[ai]|patia|patie|grafia|scopia|logia|metria|tomia|ectomia|stomia|plastica"
    r"|ment[eoi]|ante|anti|ente|enti|ent[oa]|uria|penia|algia|plegia|terapi[ae]|statina|pril|sartan|mab|nib|olo|azolo|mic[oahei]{1,2}"
    r"|tic[oahei]{1,2}|ric[oahei]{1,2}|nic[oahei]{1,2}|lic[oahei]{1,2}|sic[oahei]{1,2}|bil[ei]|ativ[oaie]|ale|ali|are|ari[ao]|aria|ere|ire"
    r"|at[oaie]|ut[oaie]|it[oa]|ibile|tor[ei]|trice|ura|ure|ismo|ista|isti|enza|enze|anza|anze|ezza|isce|iscono|xaban|gliptin|glifozin"
    r"|cillina|micina|ossacina|oxacina|cef[a-z]+|amide|idone|azepam|prazolo|ling|tion|sis|ness|ment|ing|ed|ology|ectomy|scopy|gram|ous"
    r"|ical|able|ity|ive|ial|ual|eal|ary)$"
)


def is_known(word: str) -> bool:
    """Whether a word stands in a list of names."""
    return all(part in _known() for part in fold(word).replace("'", "-").split("-") if len(part) > 2) and len(word) > 1


def is_term(word: str) -> bool:
    """Whether a word is medicine or everyday clinical language, an eponym, or ends like one."""
    folded = fold(word)
    return is_medical(word) or folded in _weak() or _TERM_ENDING.search(folded) is not None


def is_medical(word: str) -> bool:
    """Whether a word, or each part of a hyphenated one, is a term, a drug or an eponym."""
    folded = fold(word)
    parts = [part for part in re.split(r"['\-]", folded) if part]
    return folded in _medical() or (bool(parts) and all(part in _medical() or len(part) == 1 for part in parts))


def is_eponym(word: str) -> bool:
    """Whether a word, or a part of it, is a medical eponym."""
    return any(part in _eponyms() for part in [fold(word), *re.split(r"['\-]", fold(word))])


def is_weak(word: str) -> bool:
    """Whether a word is also everyday language."""
    return fold(word) in _weak()


def is_trade(word: str) -> bool:
    """Whether a word is never a part of a name."""
    return fold(word) in _trade()


def trimmed(  # noqa: C901 - one scan over words, each rule a line
    text: str, start: int, end: int, kind: str
) -> list[tuple[int, int]]:
    """What of a candidate after a title, a label or a relation is a name.

    Args:
        text: the whole text.
        start: of the candidate.
        end: of the candidate.
        kind: `titled` (sig., dott.: nearly anything is a name), `labelled` (Nome:), `related` (moglie, paziente: a
            capital alone is weak evidence), `lower` (in lower case after a title or relation: only known names).
    """
    found: list[tuple[int, int]] = []
    first = last = -1
    shouting = kind != "titled" and _shouting(text, start)
    for word in _TOKEN.finditer(text, start, end):
        written = word[0]
        gap = re.sub(rf"(?<!\w){_PARTICLE}(?:[ \t]|')", "", text[last : word.start()]) if last >= 0 else ""
        if first >= 0 and re.fullmatch(r"[.,]?[ \t]*(?:(?:,|/|-|\be\b|\bed\b|&|and)[ \t]*)?", gap) is None:
            break
        if len(written) == 1 and (written.isupper() or text[word.end() : word.end() + 1] == "."):
            if written.lower() == "e" and text[word.end() : word.end() + 1] != ".":
                continue
            first, last = (word.start() if first < 0 else first), word.end()
            continue
        if re.fullmatch(_PARTICLE, written) and text[word.end() : word.end() + 1] in (" ", "'") and kind != "lower":
            if first < 0 and written.islower():
                break
            continue
        if fold(written) in ("e", "ed", "and"):
            continue
        if not _fits(text, word, kind, shouting, first >= 0):
            break
        first, last = (word.start() if first < 0 else first), word.end()
    if first >= 0 and last > first:
        if text[last : last + 1] == "." and text[last - 1].isupper() and (last - 2 < 0 or not text[last - 2].isalpha()):
            last += 1
        lead = re.search(rf"(?:{_PARTICLE}['\s]){{1,2}}$", text[start:first])
        found.append((first - len(lead[0]) if lead else first, last))
    return found


def _fits(text: str, word: re.Match[str], kind: str, shouting: bool, going: bool) -> bool:
    """Whether one word belongs to the name that a title or a label announces."""
    written = word[0]
    folded = fold(written)
    known = is_known(written)
    if folded in _trade() or folded in _titles():
        return False
    if kind == "lower" or not written[0].isupper():
        return (
            known
            and kind != "related"
            and not is_term_or_eponym(written)
            and (kind == "labelled" or folded in _italian())
        )
    if kind == "titled" and not going:
        return known or is_eponym(written) or not is_term(written) or not (folded in _weak() or folded in _dicom())
    if known and (not shouting or folded not in _weak()):
        return kind != "related" or going or not (folded in _weak() and folded not in _italian()) or not shouting
    if shouting and kind == "related" and "," in text[word.start() - 2 : word.start()]:
        return False
    return not is_term(written) or (kind != "related" and going and not is_medical(written) and folded not in _weak())


def find_names(text: str) -> list[tuple[int, int]]:
    """Start and end of each name that needs no title."""
    found = [match.span() for match in _FOREIGN.finditer(text)]
    for match in _RUN.finditer(text):
        found += _in_run(text, match)
    found += _with_initials(text)
    for match in _LOWER_RUN.finditer(text):
        first, second = match[0].split()
        if (
            not any(is_term_or_eponym(w) or is_eponym(w) for w in (first, second))
            and (fold(first) in _given() or (fold(first) in _italian() and fold(second) in _italian()))
            and is_known(second)
        ):
            found.append(match.span())
    for match in _TOKEN.finditer(text):
        if match[0][0].isupper() and _alone(text, match):
            found.append(match.span())
    return found


def _in_run(text: str, match: re.Match[str]) -> list[tuple[int, int]]:
    """The parts of a run of capitalised words that are names: known ones and what leans on them."""
    words = [w for w in _TOKEN.finditer(text, *match.span())]
    shouting = _shouting(text, match.start())
    marks = [_mark(text, word, shouting) for word in words]
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(words):
        if marks[at] == "t":
            at += 1
            continue
        end = at
        while end + 1 < len(words) and marks[end + 1] != "t" and end - at < 5:
            end += 1
        while end > at and marks[end] == "p":
            end -= 1
        group, signs = words[at : end + 1], marks[at : end + 1]
        if _is_person(text, group, signs, shouting):
            stop = group[-1].end()
            if len(group[-1][0]) == 1 and text[stop : stop + 1] == ".":
                stop += 1
            found.append((group[0].start(), stop))
        at = end + 1
    return found


def _mark(text: str, word: re.Match[str], shouting: bool) -> str:
    """k known name, w name that is also a word, u unknown, p particle, i initial, t term (ends a group)."""
    written = word[0]
    folded = fold(written)
    if len(written) == 1:
        return "i"
    if re.fullmatch(_PARTICLE, written) or (not written[0].isupper() and len(written) <= 5):
        return "p"
    if EPONYM_BEFORE.search(text[max(0, word.start() - 40) : word.start()]):
        return "t"
    if is_known(written) and not is_term_or_eponym(written):
        return "k"
    if (
        is_known(written)
        and (folded in _weak() or folded in _eponyms() or folded in _dicom())
        and folded not in _trade()
    ):
        return "w"
    if is_medical(written) or folded in _weak() or not written.replace("'", "").replace("-", "").isalpha():
        return "t"
    if _TERM_ENDING.search(folded):
        return "k" if folded in _italian() else "t"
    if len(written) <= 3 and written.isupper():
        return "t"
    return "u"


def is_term_or_eponym(word: str) -> bool:
    """Whether a known name is worth nothing alone, since medicine or everyday language uses it too."""
    folded = fold(word)
    return is_medical(word) or folded in _weak() or (_TERM_ENDING.search(folded) is not None and folded not in _known())


def _is_person(text: str, group: list[re.Match[str]], signs: list[str], shouting: bool) -> bool:
    solid = [sign for sign in signs if sign in "kwu"]
    if "k" in signs:
        return len(solid) > 1 or "i" in signs or _alone(text, group[signs.index("k")])
    if len(solid) < 2 or len(solid) > 4 or shouting:
        return False
    start = re.search(r"(?:^|[.!?\n\r]\s{0,3})$", text[max(0, group[0].start() - 4) : group[0].start()]) is not None
    if all(sign == "w" for sign in solid):
        return (
            (not start or any(fold(word[0]) in _given() for word in group))
            and not any(is_eponym(word[0]) for word in group)
            and all(len(w[0]) > 2 for w in group)
        )
    if _EPONYM_AFTER.match(text[group[-1].end() : group[-1].end() + 16]):
        return False
    titled = all(word[0][1:].islower() or "-" in word[0] or "'" in word[0] for word in group if len(word[0]) > 1)
    leaning = any(
        sign == "w" and (not start or fold(word[0]) in _italian()) for word, sign in zip(group, signs, strict=True)
    )
    return titled and (not start or leaning) and (leaning or solid.count("u") >= 2 or signs[0] == "w")


def _with_initials(text: str) -> list[tuple[int, int]]:
    found = []
    for match in _INITIALS.finditer(text):
        letters = "".join(c for c in match[0] if c.isalpha())
        if letters not in _ABBREVIATIONS and not text[match.end() : match.end() + 2].strip()[:1].isdigit():
            found.append((match.start(), match.start() + len(match[0].rstrip())))
    for pattern in (_INITIAL_NAME, _NAME_INITIAL):
        for match in pattern.finditer(text):
            word = match["v"]
            initials = "".join(c for c in match[0].replace(word, "") if c.isupper())
            before = text[max(0, match.start() - 40) : match.start()]
            medical = is_medical(word) or is_eponym(word) or fold(word) in _weak()
            if initials in _ABBREVIATIONS or EPONYM_BEFORE.search(before):
                continue
            if not medical or (is_known(word) and not is_eponym(word) and fold(word) not in _trade()):
                if is_known(word) or not _TERM_ENDING.search(fold(word)):
                    found.append((match.start(), match.start() + len(match[0].rstrip())))
    return found


def _alone(text: str, match: re.Match[str]) -> bool:
    """Whether one capitalised word is a person by itself."""
    word = match[0]
    folded = fold(word)
    if len(word) < 3 or not is_known(word) or is_term_or_eponym(word) or is_eponym(word):
        return False
    before, after = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 16]
    if EPONYM_BEFORE.search(before) or before[-1:] in "@/_" or after[:1].isdigit():
        return False
    if word.isupper() and (len(word) < 5 or folded not in _italian()):
        return False
    if _sentence_start(text, match.start()) or len(word) == 3:
        return folded in _italian() and len(word) > 3 and not after.startswith(":")
    if folded not in _italian() and len(word) < 5:
        return False
    return not re.match(r"\s{0,2}\d+[.,]?\d*\s?(?:mg|mcg|g|ml|UI|cp|cpr|%|µg)\b", after)


def repeated(text: str, found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every other place where a part of a name found once stands with a capital."""
    parts = set()
    for start, end in found:
        for word in _TOKEN.findall(text[start:end]):
            if len(word) > 3 and not is_term(word) and not is_eponym(word) and word[0].isupper():
                parts.add(fold(word))
    return [m.span() for m in _TOKEN.finditer(text) if m[0][0].isupper() and fold(m[0]) in parts] if parts else []


def _sentence_start(text: str, at: int) -> bool:
    return _SENTENCE_END.search(text[max(0, at - 4) : at]) is not None


def _shouting(text: str, at: int) -> bool:
    """Whether the words around are all upper case, so that capitals say nothing."""
    start = max(text.rfind("\n", max(0, at - 80), at) + 1, at - 80, 0)
    end = text.find("\n", at, at + 80)
    letters = [c for c in text[start : end if end != -1 else at + 80] if c.isalpha()]
    return sum(c.isupper() for c in letters) > 0.7 * len(letters)


@lru_cache(maxsize=1)
def _italian() -> frozenset[str]:
    """Names met in Italy: sure enough to stand at the start of a sentence."""
    names = {fold(w) for file in ("surnames.txt", "given.txt", "faker-italian.txt") for w in read_words(file)}
    return frozenset(names | _package_names())


@lru_cache(maxsize=1)
def _given() -> frozenset[str]:
    return frozenset({fold(word) for word in read_words("given.txt")} | _package_names())


def _package_names() -> set[str]:
    return {fold(part) for sex in ("M", "F") for name in package_data("names.json")[sex] for part in name.split()}


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    return _italian() | {fold(word) for word in read_words("faker-world.txt")}


@lru_cache(maxsize=1)
def municipalities() -> frozenset[str]:
    """Italian municipalities, past ones too, folded, but for those that are everyday words."""
    return frozenset(fold(entry["name"]) for entry in package_data("municipalities.json"))


@lru_cache(maxsize=1)
def _titles() -> frozenset[str]:
    return frozenset(
        "dott dottor dottoressa dottssa ssa prof sig sigra signor signora signorina dr mr mrs ms nome cognome nato nata data cf codice sesso paziente "
        "tel via età eta moglie marito figlio figlia madre padre reparto medico cartella nosologico name surname dob mrn patient phone address born".split()
    )


@lru_cache(maxsize=1)
def _eponyms() -> frozenset[str]:
    return frozenset(map(fold, read_words("eponyms.txt")))


@lru_cache(maxsize=1)
def _weak() -> frozenset[str]:
    return frozenset(fold(word) for file in ("common.txt", "homographs.txt") for word in read_words(file))


@lru_cache(maxsize=1)
def _dicom() -> frozenset[str]:
    return frozenset(fold(word) for word in read_words("dicom.txt"))


@lru_cache(maxsize=1)
def _trade() -> frozenset[str]:
    """Words that are never a part of a name, even beside one."""
    files = ("imaging.txt", "clinical.txt", "drugs.txt")
    return frozenset(fold(word) for file in files for word in read_words(file)) - {"marco", "sala", "eco"} | _HEADS


@lru_cache(maxsize=1)
def _medical() -> frozenset[str]:
    return _trade() | _dicom() | _eponyms()


def package_data(name: str) -> Any:
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
