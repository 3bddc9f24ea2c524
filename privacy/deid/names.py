"""Names of persons in clinical text without a model: lists of names weighed against the words of medicine.

A title, a label or a relation before a word makes it a name whatever it is (`candidates.py`). Here are the rest:
neighbours of which one is a known name, words that stand before a fiscal code or a birth date, known names alone,
initials, and what was found once, found again. Eponyms, drugs and the words of the trade count against a name.
Not here: places, hospitals, columns, the deny-list.
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import re
from collections.abc import Iterable

from privacy.deid import wordlists
from privacy.deid.candidates import EPONYM_AFTER, EPONYM_NOUN, PARTICLE, TOKEN, UPPER, shouting
from privacy.deid.deny import fold

__all__ = ["EPONYM_BEFORE", "at_sentence_start", "find_names", "repeated"]

# Words in a row with nothing between but blanks, particles, initials and one comma or stroke.
_RUN = re.compile(
    rf"(?<![\w'@.])(?:{PARTICLE}['\s])?{UPPER}(?:[\w'\-]{{1,40}}|\.)?"
    rf"(?:[ \t]{{0,3}}[,;|/]?[ \t]{{1,3}}(?:{PARTICLE}(?:[ \t]|')){{0,2}}{UPPER}(?:[\w'\-]{{1,40}}|\.)?){{1,9}}"
)
_LOWER_RUN = re.compile(
    r"(?<![\w'@./])(?=(?P<a>[a-zà-ÿ]{3,20})'?[ \t](?:(?:de|di|d|lo|la|del|della|dal)[ '])?(?P<b>[a-zà-ÿ]{3,20})'?(?![\w@/]))"
)
_PERSON_BEFORE = re.compile(
    r"(?<![^\W_])(?:paziente|pz|paz|sig|sig\.?ra|signor[aei]?|assistit[oa]|utente|patient)\.?[ \t:]{1,3}$",
    re.IGNORECASE,
)
# A given name and a surname that is an eponym or a word as well: "Colin Whitmore", "James Smith".
_GIVEN_PAIR = re.compile(
    rf"(?<![\w'.])(?=(?P<a>{UPPER}[^\W\d_]{{2,20}})[ ](?:{UPPER}\.?[ ])?(?P<b>{UPPER}[\w'\-]{{2,30}})(?!\w))"
)
_CAPITALS_FIRST = re.compile(
    rf"(?<![\w'.])(?P<b>{UPPER}{{4,30}})[ ](?P<a>{UPPER}[^\W\d_]{{2,20}})(?!\w)"
)  # "TESTA Giovanni"
_GIVEN_FIRST = frozenset(
    "james thomas lawrence douglas russell vincent bruce albert keith norman".split()
)  # and eponyms
_INITIAL = re.compile(rf"({UPPER})\.")
_INITIALS = re.compile(rf"(?<![\w.])(?:{UPPER}\.[ ]?){{2,3}}(?![\w])")
_INITIAL_NAME = re.compile(
    rf"(?<![\w.])(?:{UPPER}\.[ \t]?){{1,3}}(?:{PARTICLE}[ '])?(?P<v>{UPPER}[\w'\-]{{2,30}})(?![\w.]?[\d(])"
)
_NAME_INITIAL = re.compile(rf"(?<![\w.'])(?P<v>{UPPER}[\w'\-]{{2,30}})[ \t](?:{UPPER}\.[ ]?){{1,2}}(?!\w)")
_FOREIGN = re.compile(r"[\u0400-\u052f\u0530-\u07bf\u0900-\u1fff\u3040-\ud7ff\uf900-\ufaff\ufb1d-\ufefc]{2,}"
                      r"|[\u0370-\u03ff]{4,}|[\u3040-\u9fff]")  # fmt: skip
EPONYM_BEFORE = re.compile(
    r"(?<![^\W_])(?:malattia|globuli|morbo|sindrome|sdr|segno|segni|fenomeno|linfoma|scala|score|indice|punteggio|classificazione|classe|criteri[oa]?"
    r"|stoma|valvola|telo|ag[oh]i?|pinz[ae]|forbici|divaricator[ei]|sond[ae]|cannul[ae]|protesi|placca|vit[ei]|chiodo|fil[oi]|sutura|nodo|anastomosi|plastica|lembo|osteotomia|artrodesi"
    r"|resezione|posizione|prov[ae]|rifless[oi]|colorazione|coltura|terreno|soluzione|schema|regime|dieta|stadiazione|stadi|rapporto|soffio|ritmo|onda|blocco|polso|respiro|facies|dito|piede|noduli|nodulo"
    r"|cellul[ae]|corp[oi]|macchi[ae]|stri[ae]|area|zona|punto|canal[ei]|forame|tubercolo|muscolo|nervo|ganglio|plesso|membrana|band[ae]|aneurisma|ulcer[ae]|gangrena|flemmone|angina|tiroidite|gozzo"
    r"|encefalopatia|afasia|demenza|epilessia|nevralgia|distrofia|vasculite|arterite|porpora|nefropatia|osteocondrosi|necrosi|deformit[àa]|lesione|tiroiditi|contrattura|tremore|pinna|busto|tutore di"
    r"|tumore|sarcoma|esofago|manovra|test|ernia|diverticolo|legamento|morbus|m|s|l|stadio|grado|cisti|frattura|catetere|drenaggio"
    r"|intervento|anello|anatomia|tripode|malattie|reazione|equazione|formula|metodo|tecnica|linea|triangolo|cavo|spazio|ampolla"
    r"|sfintere|papilla|dotto|ghiandol[ae]|tuba|tube|loggia|fascia|tetralogia|triade|corea|atassia|anemia|virus|paralisi|neuroma"
    r"|disease|syndrome|sign|lymphoma|scale|grade|stage|criteria|fracture|palsy|angina|cyst|tumou?r|esophagus|duct)"
    r"\.?\s{1,2}(?:(?:di|de|del|della|dell'|d'|of|sec\.|secondo|non[- ])\s{0,2})?$",
    re.IGNORECASE,
)
_PARTICLE_WORD = re.compile(PARTICLE)
# What follows a person: a fiscal code, a sex and a birth date, "nato".
_ANCHOR = re.compile(
    r"[ \t,;|(\-]{1,12}(?:(?:M|F|sesso [MF])[ \t,;|)\-]{1,12})?(?:nat[oa]\b|\d{1,3} ?(?:anni|aa\b|yo\b|y/o|y\.o|years?|enne)|cittadin[oa]\b|di nazionalit|di origine|originari[oa]|di anni|[a-z]{2,14}(?:enne|enari[oa])\b|aa\.? \d|aged? \d|n\. ?il\b|born\b|dob\b|d\.n\.|c\.?f\.?[ :]|cod(?:ice|\.) fisc"
    r"|[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z]|(?:0?[1-9]|[12]\d|3[01])[/.\-](?:0?[1-9]|1[0-2])[/.\-](?:19\d\d|200\d|201\d)(?!\d))",
    re.IGNORECASE,
)
_SHORT_PAIR = re.compile(rf"(?<![\w'.])({UPPER}\w{{1,2}})[ ]({UPPER}\w{{1,3}})(?![\w'.])")
# A person by what is said after the name: "Wioletta (badante)", "Rossi Ada, figlia".
_RELATED_AFTER = re.compile(
    r"[ ]?[(,][ ]{0,2}(?:(?:tel|cell|cel|ph|mob)\b|\+?\d[\d ./\-]{7,16}(?!\d)|[\w.+\-]{2,40}@)"
    r"|[ ]?[(,][ ]?(?:la |il |lo |his |her |the )?(?:moglie|marito|figli[oa]|madre|padre|mamma|pap[àa]|sorella|fratello|nipote|nonn[oa]|zi[oa]|cognat[oa]|nuora|genero|badante"
    r"|compagn[oa]|convivente|amic[oa]|vicin[oa]|tutore|tutrice|caregiver|coniuge|infermier[ea]|oss|medico|wife|husband|son|daughter|mother|father|sister|brother|partner|carer|neighbou?r|friend"
    r"|next of kin|niece|nephew|aunt|uncle)\b",
    re.IGNORECASE,
)
_PATH = re.compile(rf"(?<!{UPPER})(?<![^\W\d_])[a-z\d.:]{{0,20}}/$")
_TEXT_START = re.compile(r"(?:^|[.!?\n\r]\s{0,3})$")
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\r\t\-(•*|>]\s{0,3})$")


def find_names(text: str) -> list[tuple[int, int]]:
    """Start and end of each name that needs no title."""
    found = [match.span() for match in _FOREIGN.finditer(text)]
    for match in _RUN.finditer(text):
        found += _in_run(text, match)
    found += _with_initials(text)
    for match in _SHORT_PAIR.finditer(text):
        quiet = match[1][1:].islower() and match[2][1:].islower() and not at_sentence_start(text, match.start())
        if quiet and all(wordlists.is_short(w) or wordlists.is_listed(w) for w in match.groups()):
            found.append(match.span())
    found += [
        (m.start("a"), m.end("b")) for m in _LOWER_RUN.finditer(text) if _quiet_pair(text, m.start("a"), m["a"], m["b"])
    ]
    found += [(m.start("a"), m.end("b")) for m in _GIVEN_PAIR.finditer(text) if _given_pair(text, m)]
    for match in _CAPITALS_FIRST.finditer(text):
        given = wordlists.is_given(match["a"]) and wordlists.is_listed(match["a"]) and match["a"][1:].islower()
        if given and wordlists.is_local(match["b"]):
            found.append(match.span())
    for match in TOKEN.finditer(text):
        if match[0][0].isupper() and (_alone(text, match) or _told(text, match)):
            found.append(match.span())
    return found


def _quiet_pair(text: str, at: int, first: str, second: str) -> bool:
    """Whether two words in lower case are a person; after "paziente" one of them may be a word as well."""
    if any(wordlists.is_eponym(word) or wordlists.is_medical(word) for word in (first, second)):
        return False
    if not (wordlists.is_known(first) and wordlists.is_known(second)):
        return False
    sure = [wordlists.is_listed(word) for word in (first, second)]
    if all(sure):
        return wordlists.is_given(first) or (wordlists.is_local(first) and wordlists.is_local(second))
    surely = any(ok and wordlists.is_given(word) for ok, word in zip(sure, (first, second), strict=True))
    return surely and _PERSON_BEFORE.search(text, max(0, at - 16), at) is not None


def _given_pair(text: str, match: re.Match[str]) -> bool:
    """Whether a given name and what follows with a capital are a person, although the second may be an eponym."""
    first, second = match["a"], match["b"]
    if not (wordlists.is_given(first) and first[1:].islower() and not second.isupper()):
        return False
    if wordlists.is_eponym(first) and fold(first) not in _GIVEN_FIRST:
        return False
    surname = wordlists.is_known(second) and (wordlists.is_local(second) or not wordlists.is_trade(second))
    if not wordlists.is_eponym(second) and not surname:
        return False
    before = text[max(0, match.start() - 40) : match.start()]
    after = match.end("b")
    return not (EPONYM_BEFORE.search(before) or EPONYM_AFTER.match(text, after) or EPONYM_NOUN.match(text, after))


def _in_run(text: str, match: re.Match[str]) -> list[tuple[int, int]]:
    """The parts of a run of capitalised words that are names: known ones and what leans on them."""
    loud = shouting(text, match.start())
    found: list[tuple[int, int]] = []
    segment: list[re.Match[str]] = []
    for word in TOKEN.finditer(text, *match.span()):
        segment.append(word)
        if _ANCHOR.match(text, word.end()):
            found += _in_segment(text, segment, loud, anchored=True)
            segment = []
    return found + _in_segment(text, segment, loud, anchored=False)


def _in_segment(text: str, words: list[re.Match[str]], loud: bool, *, anchored: bool) -> list[tuple[int, int]]:
    """The names among words in a row; anchored: what a birth date or a fiscal code follows."""
    marks = [_mark(text, word) for word in words]
    found: list[tuple[int, int]] = []
    if anchored and len(words) > 1 and all(wordlists.is_short(word[0]) for word in words[-2:]):
        found.append((words[-2].start(), words[-1].end()))
    at = 0
    while at < len(words):
        end = _group_end(words, marks, at, loud, anchored)
        if end < at:
            at += 1
            continue
        group, signs = words[at : end + 1], marks[at : end + 1]
        sure = anchored and end + 1 == len(words) and 1 < len(_solid(signs)) < 5
        if sure or _is_person(text, group, signs, loud):
            stop = group[-1].end()
            if len(group[-1][0]) == 1 and text[stop : stop + 1] == ".":
                stop += 1
            found.append((group[0].start(), stop))
        at = end + 1
    return found


def _group_end(words: list[re.Match[str]], marks: list[str], at: int, loud: bool, anchored: bool) -> int:
    """The last word of the group of names that may begin at one word; before it when there is none."""

    def closes(index: int) -> bool:
        if marks[index] != "e":
            return marks[index] == "t"
        beside = marks[max(at, index - 1) : index + 2]
        return not anchored and (loud or "k" not in beside or not words[index][0][1:].islower())

    end = at - 1
    while end + 1 < len(words) and not closes(end + 1) and end - at < 5:
        end += 1
    while end > at and marks[end] == "p":
        end -= 1
    return end


def _mark(text: str, word: re.Match[str]) -> str:
    """k known name, w name that is also a word, u unknown, e unknown that ends like a term, p particle, i initial, t term."""
    written = word[0]
    if text[word.end() : word.end() + 2].lstrip("-")[:1].isdigit():
        return "t"
    if len(written) == 1:
        return "i"
    if _PARTICLE_WORD.fullmatch(written) or (not written[0].isupper() and len(written) <= 5):
        return "p"
    if EPONYM_BEFORE.search(text, max(0, word.start() - 40), word.start()):
        return "t"
    if wordlists.is_known(written):
        return _mark_known(written)
    if wordlists.is_medical(written) or wordlists.is_weak(written) or (len(written) <= 3 and written.isupper()):
        return "t"
    return "e" if wordlists.has_term_ending(written) else "u"


def _mark_known(written: str) -> str:
    if wordlists.is_listed(written):
        return "k" if len(written) > 2 else "w"
    return "t" if wordlists.is_trade(written) else "w"


def _solid(signs: list[str]) -> list[str]:
    return [sign for sign in signs if sign in "kwue"]


def _is_person(text: str, group: list[re.Match[str]], signs: list[str], loud: bool) -> bool:
    solid = _solid(signs)
    if "k" in signs:
        return len(solid) > 1 or "i" in signs or _alone(text, group[signs.index("k")])
    if len(solid) < 2 or len(solid) > 4 or loud:
        return False
    start = _TEXT_START.search(text, max(0, group[0].start() - 4), group[0].start()) is not None
    if "u" not in solid and "e" not in solid:
        return (
            re.search("[;|/]", text[group[0].start() : group[-1].end()]) is None
            and (not start or any(wordlists.is_given(word[0]) for word in group))
            and not any(wordlists.is_eponym(word[0]) for word in group)
            and all(len(w[0]) > 2 for w in group)
        )
    if EPONYM_AFTER.match(text, group[-1].end(), group[-1].end() + 16):
        return False
    if all(sign in "up" for sign in signs) and re.search("[,;|/]", text[group[0].start() : group[-1].end()]):
        return False
    titled = all(word[0][1:].islower() or "-" in word[0] or "'" in word[0] for word in group if len(word[0]) > 1)
    leaning = any(
        sign == "w" and (not start or wordlists.is_local(word[0])) for word, sign in zip(group, signs, strict=True)
    )
    return titled and (not start or leaning) and (leaning or solid.count("u") >= 2 or signs[0] == "w")


def _with_initials(text: str) -> list[tuple[int, int]]:
    found = []
    for match in _INITIALS.finditer(text):
        letters = "".join(c for c in match[0] if c.isalpha())
        if not wordlists.is_abbreviation(letters) and not text[match.end() : match.end() + 2].strip()[:1].isdigit():
            found.append((match.start(), match.start() + len(match[0].rstrip())))
    for pattern in (_INITIAL_NAME, _NAME_INITIAL):
        for match in pattern.finditer(text):
            word = match["v"]
            initials = "".join(_INITIAL.findall(match[0]))
            before = text[max(0, match.start() - 40) : match.start()]
            medical = wordlists.is_medical(word) or wordlists.is_eponym(word) or wordlists.is_weak(word)
            if (
                wordlists.is_abbreviation(initials)
                or (len(word) < 4 and word.isupper())
                or EPONYM_BEFORE.search(before)
            ):
                continue
            if not medical or (
                wordlists.is_known(word) and not wordlists.is_eponym(word) and not wordlists.is_trade(word)
            ):
                closing = text[match.end() : match.end() + 1] in ("", "\n", "\r", ",", ";", ")", "|")
                if wordlists.is_known(word) or closing or not wordlists.has_term_ending(word):
                    found.append((match.start(), match.start() + len(match[0].rstrip())))
    return found


def _told(text: str, match: re.Match[str]) -> bool:
    """Whether an unknown capitalised word is a person by the relation that follows."""
    word = match[0]
    quiet = len(word) > 2 and word[1:].islower() and not wordlists.is_term(word)
    return quiet and _RELATED_AFTER.match(text, match.end()) is not None


def _alone(text: str, match: re.Match[str]) -> bool:
    """Whether one capitalised word is a person by itself."""
    word = match[0]
    if len(word) < 3 or not wordlists.is_listed(word) or wordlists.is_eponym(word):
        return False
    before, after = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 16]
    if EPONYM_BEFORE.search(before) or before[-1:] in ("@", "_") or _PATH.search(before) or after[:1].isdigit():
        return False
    if word.isupper() and (len(word) < 5 or not wordlists.is_local(word)):
        return False
    if EPONYM_NOUN.match(text, match.end()):
        return False
    if _RELATED_AFTER.match(text, match.end()):
        return True
    if at_sentence_start(text, match.start()) or len(word) == 3:
        return wordlists.is_local(word) and len(word) > 3 and not after.startswith(":")
    if not wordlists.is_local(word) and len(word) < 5:
        return False
    return not re.match(r"\s{0,2}\d+[.,]?\d*\s?(?:mg|mcg|g|ml|UI|cp|cpr|%|µg)\b", after)


def repeated(text: str, found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every other place where a part of a name found once stands with a capital."""
    parts = set()
    for start, end in found:
        for word in TOKEN.findall(text[start:end]):
            if len(word) > 3 and not wordlists.is_term(word) and not wordlists.is_eponym(word) and word[0].isupper():
                parts.add(fold(word))
    return [m.span() for m in TOKEN.finditer(text) if m[0][0].isupper() and fold(m[0]) in parts] if parts else []


def at_sentence_start(text: str, at: int) -> bool:
    """Whether a word begins a line, a sentence or an item, where a capital says nothing."""
    return _SENTENCE_END.search(text[max(0, at - 4) : at]) is not None
