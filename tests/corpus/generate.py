"""Clinical notes from templates: each comes with its identifying spans and with the eponyms that must stay.

A template is text with slots such as `<name>` or `<date>`, and with fixed parts that identify such as
`<ward=Chirurgia>`; everything else is kept as it stands, but for layout noise:
upper case, wrapped lines, CRLF, typing errors in words that are no identifier, decomposed accents.
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

_SLOT = re.compile(r"<([a-z]+)(?:=([^>]{1,40}))?>")
_MONTHS = {
    "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre".split(),
    "en": "January February March April May June July August September October November December".split(),
}
_ROMAN = "I II III IV V VI VII VIII IX X XI XII".split()
_WEEKDAYS = "lun mar. mercoledì gio ven sab. domenica".split()
_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21,
            2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23], strict=True))  # fmt: skip
DIRECT = ("name", "fiscal", "document", "account", "phone", "email", "address", "record", "date", "url", "age")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """One annotated part: start, end, entity; entity `keep` is medicine that must stay."""

    start: int
    end: int
    entity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note of the corpus."""

    lang: str
    text: str
    gold: tuple[Gold, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What notes are made from: lists of names, and templates by language."""

    given: Sequence[str]
    surnames: Sequence[str]
    streets: Sequence[str]
    towns: Sequence[str]
    hospitals: Sequence[str]
    eponyms: Sequence[str]
    wards: Sequence[str]
    brief: Sequence[str]
    templates: dict[str, Sequence[str]]


class _Writer:
    def __init__(self, material: Material, lang: str, rng: random.Random) -> None:
        self.m, self.lang, self.rng = material, lang, rng
        self.given, self.surname = rng.choice(material.given), rng.choice(material.surnames)
        self.slots: dict[str, tuple[str, Callable[[], str]]] = {
            "name": ("name", self._name), "given": ("name", lambda: self.given), "surname": ("name", lambda: self.surname),
            "doctor": ("name", self._doctor), "othergiven": ("name", lambda: rng.choice(material.given)),
            "initials": ("name", lambda: f"{self.given[0]}.{self.surname[0]}."),
            "fiscal": ("fiscal", self._fiscal), "date": ("date", self._date), "birth": ("date", self._birth),
            "card": ("document", lambda: rng.choice(("80380" + self._digits(15), f"80380 {self._digits(5)} {self._digits(5)} {self._digits(5)}"))), "plate": ("document", self._plate),
            "idcard": ("document", lambda: f"C{rng.choice('ABX')}{self._digits(5)}{rng.choice('ABDEF')}{rng.choice('ABDEF')}"),
            "passport": ("document", lambda: f"Y{rng.choice('AB')}{self._digits(7)}"),
            "iban": ("account", self._iban),
            "phone": ("phone", self._phone), "email": ("email", self._email), "url": ("url", self._url),
            "address": ("address", self._address), "town": ("place", lambda: rng.choice(material.towns)),
            "record": ("record", self._record), "hospital": ("facility", lambda: rng.choice(material.hospitals)),
            "ward": ("facility", lambda: rng.choice(material.wards)), "brief": ("name", lambda: rng.choice(material.brief)),
            "lower": ("name", lambda: _typed(f"{self.given} {self.surname}").lower()), "caps": ("name", lambda: f"{self.surname} {self.given}".upper()),
            "short": ("name", self._short), "surnamefirst": ("name", lambda: f"{self.surname}, {self.given}"),
            "typed": ("name", lambda: _typed(f"{self.given} {self.surname}")), "plain": ("name", lambda: f"{self.given} {self.surname}"),
            "thisday": ("date", lambda: f"{rng.randint(1, 28)} {rng.choice(('c.m.', 'u.s.', 'p.v.'))}"),
            "oldword": ("age", lambda: rng.choice(("novantaduenne", "novantunenne", "ultranovantenne", "centenaria"))),
            "oldage": ("age", lambda: str(rng.randint(90, 104))), "age": ("", lambda: str(rng.randint(19, 88))),
            "eponym": ("keep", lambda: rng.choice(material.eponyms)),
        }  # fmt: skip

    def write(self, template: str) -> tuple[str, list[Gold]]:
        pieces: list[str] = []
        gold: list[Gold] = []
        at = length = 0
        for match in _SLOT.finditer(template):
            before = template[at : match.start()]
            entity, make = self.slots[match[1]]
            value = match[2] or make()
            pieces += [before, value]
            length += len(before)
            if entity:
                gold.append(Gold(start=length, end=length + len(value), entity=entity))
            length += len(value)
            at = match.end()
        return "".join([*pieces, template[at:]]), gold

    def _digits(self, count: int) -> str:
        return "".join(self.rng.choice("0123456789") for _ in range(count))

    def _name(self) -> str:
        forms = (f"{self.given} {self.surname}", f"{self.surname} {self.given}", f"{self.surname.upper()} {self.given}",
                 f"{self.surname.upper()} {self.given.upper()}")  # fmt: skip
        return self.rng.choice(forms if self.lang == "it" else forms[:1])

    def _short(self) -> str:
        return self.rng.choice((f"{self.surname} {self.given[0]}.", f"{self.given[0]}. {self.surname}"))

    def _iban(self) -> str:
        letter, bank = self.rng.choice("ABX"), (self._digits(5), self._digits(5), self._digits(12))
        figures = "".join(str(int(c, 36)) for c in letter + "".join(bank) + "IT00")
        check = f"{98 - int(figures) % 97:02d}"
        return self.rng.choice((f"IT{check}{letter}{''.join(bank)}", f"IT {check} {letter} {' '.join(bank)}"))

    def _doctor(self) -> str:
        given, surname = self.rng.choice(self.m.given), self.rng.choice(self.m.surnames)
        return self.rng.choice((surname, f"{given} {surname}", f"{given[0]}. {surname}"))

    def _date(self) -> str:
        day, month, year = self.rng.randint(1, 28), self.rng.randint(1, 12), self.rng.randint(2005, 2024)
        name = _MONTHS[self.lang][month - 1]
        forms: tuple[str, ...]
        if self.lang == "en":
            forms = (f"{day} {name} {year}", f"{name} {day}, {year}", f"{day:02d}/{month:02d}/{year}", f"{day} {name[:3]} {year}",
                     f"{year}-{month:02d}-{day:02d}", f"{day}th of {name} {year}", f"{name} {year}", f"{day:02d}-{name[:3]}-{year}")  # fmt: skip
        else:
            forms = (f"{day:02d}/{month:02d}/{year}", f"{day}.{month}.{year}", f"{day}/{month}/{year % 100:02d}", f"{day} {name} {year}",
                     f"{day} {name[:3]} {year}", f"{day:02d}-{month:02d}-{year}", f"{name} {year}", f"1° {name} {year}",
                     f"{day} {name}", f"{year}-{month:02d}-{day:02d}", f"{name} '{year % 100:02d}", f"{day:02d}-{name[:3]}-{year}",
                     f"{day}.{_ROMAN[month - 1]}.{year}", f"{_WEEKDAYS[day % 7]} {day}/{month}/{year}")  # fmt: skip
        return self.rng.choice(forms)

    def _birth(self) -> str:
        return f"{self.rng.randint(1, 28):02d}/{self.rng.randint(1, 12):02d}/{self.rng.randint(1925, 2004)}"

    def _fiscal(self) -> str:
        rng = self.rng
        letters = "".join(rng.choice("BCDFGLMNPRSTV") for _ in range(6))
        body = f"{letters}{rng.randint(20, 99)}{rng.choice('ABCDEHLMPRST')}{rng.randint(1, 28):02d}{rng.choice('ABCDEFGHIL')}{self._digits(3)}"
        even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in body[1::2])
        check = chr((sum(_ODD[c] for c in body[::2]) + even) % 26 + 65)
        if rng.random() < 0.2:  # a typing error in the check letter
            check = chr((ord(check) - 64) % 26 + 65)
        odd = body[:13] + "".join("LMNPQRSTUV"[int(c)] for c in body[13:15]) + body[15:]  # digits replaced by letters
        return rng.choice(
            (
                body + check,
                odd + check,
                (body + check).lower(),
                f"{body[:3]} {body[3:6]} {body[6:11]} {body[11:]}{check}",
            )
        )

    def _plate(self) -> str:
        letters = "".join(self.rng.choice("ABCDEFGHJKLMNPRSTVWXYZ") for _ in range(4))
        return self.rng.choice(
            (f"{letters[:2]}{self._digits(3)}{letters[2:]}", f"{letters[:2]} {self._digits(3)} {letters[2:]}")
        )

    def _phone(self) -> str:
        d = self._digits
        if self.lang == "en":
            return self.rng.choice(
                (f"020 7{d(3)} {d(4)}", f"+44 7{d(3)} {d(6)}", f"(555) {d(3)}-{d(4)}", f"07{d(3)} {d(6)}")
            )
        return self.rng.choice((f"3{d(2)} {d(7)}", f"3{d(2)}-{d(7)}", f"+39 3{d(2)} {d(3)} {d(4)}", f"02/{d(7)}", f"06 {d(8)}",
                                f"3{d(9)}", f"0{d(2)}.{d(6)}", f"02-{d(2)}.{d(2)}.{d(2)}.{d(2)}", f"+39-3{d(2)}-{d(3)}.{d(2)}.{d(2)}", f"(0{d(2)}) {d(6)}",
                                f"3{d(2)}/{d(7)}"))  # fmt: skip

    def _email(self) -> str:
        plain = [
            unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode().lower()
            for part in (self.given, self.surname)
        ]
        clean = [re.sub(r"[^a-z]", "", part) for part in plain]
        return f"{clean[0]}.{clean[1]}@{self.rng.choice(('posta.example.it', 'mail.example.com', 'pec.example.org'))}"

    def _url(self) -> str:
        return self.rng.choice(
            ("https://referti.example.it/p/", "www.ritiro.example.org/doc?id=", "http://pacs.example.net/v/")
        ) + self._digits(6)

    def _address(self) -> str:
        if self.lang == "en":
            return f"{self.rng.randint(1, 220)} {self.rng.choice(self.m.streets)}"
        number = self.rng.choice(
            (
                f" {self.rng.randint(1, 180)}",
                f", {self.rng.randint(1, 90)}",
                f" n. {self.rng.randint(1, 90)}",
                f", {self.rng.randint(1, 90)}/B",
            )
        )
        return self.rng.choice(self.m.streets) + number

    def _record(self) -> str:
        year = self.rng.randint(2010, 2024)
        return self.rng.choice(
            (
                f"{year}/{self._digits(6)}",
                f"{year}{self._digits(6)}",
                self._digits(7),
                f"{self.rng.choice('ABHR')}{self._digits(6)}",
                f"{year}-{self._digits(5)}",
                f"{year % 100}-I-{self._digits(5)}",
            )
        )


def _typed(name: str) -> str:
    """As on a keyboard without accents: an apostrophe after the last vowel."""
    return re.sub(r"([àèéìòù])(?![^\W\d_])", lambda m: unicodedata.normalize("NFD", m[1])[0] + "'", name)


def corpus(material: Material, count: int, seed: int) -> list[Note]:
    """`count` notes, the languages and templates in turn, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - a corpus, not secrets
    notes = []
    plan = [(lang, template) for lang, templates in material.templates.items() for template in templates]
    for number in range(count):
        lang, template = plan[number % len(plan)]
        streets = [s for s in material.streets if s[0].isupper() == (lang == "en")]
        text, gold = _Writer(replace(material, streets=streets), lang, rng).write(template)
        notes.append(_noise(text, gold, lang, rng))
    return notes


def _noise(text: str, gold: list[Gold], lang: str, rng: random.Random) -> Note:  # noqa: C901 - kinds of noise in turn
    chars = list(text)
    inside = {i for g in gold for i in range(g.start, g.end)}
    draw = rng.random()
    if draw < 0.08:
        chars = [c.upper() if len(c.upper()) == 1 else c for c in chars]
    elif draw < 0.2:
        for word in re.finditer(r"(?<![^\W_])[a-zà-ù]{7,}(?![^\W_])", text):
            if word.start() not in inside and word.end() - 1 not in inside and rng.random() < 0.1:
                at = rng.randint(word.start() + 1, word.end() - 3)
                chars[at], chars[at + 1] = chars[at + 1], chars[at]
    elif draw < 0.4:
        column = 0
        for i, char in enumerate(chars):
            column = 0 if char == "\n" else column + 1
            if char == " " and column > 76 and not (i in inside and i + 1 in inside):
                chars[i], column = "\n", 0
    if 0.4 < draw < 0.5:
        chars = ["\r\n" if c == "\n" else c for c in chars]
    elif 0.5 < draw < 0.56:
        chars = [unicodedata.normalize("NFD", c) for c in chars]
    starts, at = [], 0
    for char in chars:
        starts.append(at)
        at += len(char)
    starts.append(at)
    moved = tuple(Gold(start=starts[g.start], end=starts[g.end], entity=g.entity) for g in gold)
    return Note(lang=lang, text="".join(chars), gold=moved)
