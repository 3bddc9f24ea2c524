"""Tables inside notes: a heading row names the columns, and what stands under "Cognome" is a name whatever it is.

Columns are parted by strokes, tabs, semicolons, or two blanks and more; commas only where the heading has three.
Not here: labels on the same line (`patterns.py`).
"""

# ruff: noqa: E501 - headings are data
from __future__ import annotations

import re
from collections.abc import Iterator

from privacy.deid.deny import fold

__all__ = ["find_columns", "heading_kind"]

_SEPARATORS = (
    re.compile(r"[|]"),
    re.compile(r"\t"),
    re.compile(r";"),
    re.compile(r",(?=\S)|, "),
    re.compile(r" {2,40}"),
)
_LINE = re.compile(r"[^\n\r]+")
_MAX_LINE, _MAX_ROWS = 1000, 400
_HEADINGS = {
    "name": "cognome nome nominativo cognome_e_nome nome_e_cognome cognome_nome nome_cognome paziente medico operatore"
    " assistito infermiere chirurgo anestesista refertatore intestatario referente caregiver surname name first_name last_name"
    " forename given_name family_name patient patient_name full_name doctor nurse consultant gp",
    "fiscal": "cf codice_fiscale cod_fiscale cod_fisc c_f",
    "record": "nosologico cartella n_cartella mrn id_paziente accession patient_id record_number nhs_number nhs_no accettazione"
    " n_nosologico numero_cartella codice_paziente",
    "phone": "telefono tel cellulare cell phone telephone mobile recapito",
    "address": "indirizzo address via residenza domicilio",
    "place": "comune citta luogo_di_nascita luogo_nascita town city birthplace nato_a comune_di_residenza",
    "date": "data_di_nascita data_nascita data_nasc dob date_of_birth nascita nato_il birth_date",
}
_KIND = {heading: kind for kind, headings in _HEADINGS.items() for heading in headings.split()}
_CELL = {
    "name": re.compile(r"[^\W\d_][\w'.,\- ]{0,60}"),
    "place": re.compile(r"[^\W\d_][\w'.\- ()]{1,60}"),
    "address": re.compile(r"[^\W\d_].{2,80}"),
    "fiscal": re.compile(r"[A-Za-z0-9 ]{11,20}"),
    "record": re.compile(r"(?=[^\d]{0,8}\d)[\w/.\- ]{3,30}"),
    "phone": re.compile(r"[+(]?\d[\d ./()\-]{4,20}"),
    "date": re.compile(r"\d[\d./\-]{5,9}"),
}


def find_columns(text: str) -> list[tuple[int, int, str]]:
    """Start, end and kind of each cell under a heading that identifies."""
    found: list[tuple[int, int, str]] = []
    separator: re.Pattern[str] | None = None
    kinds: dict[int, str] = {}
    width = rows = 0
    for line in _LINE.finditer(text):
        if line.end() - line.start() > _MAX_LINE:
            kinds = {}
            continue
        heading = _heading(text, line.start(), line.end())
        if heading is not None:
            separator, kinds, width = heading
            rows = 0
            continue
        if not kinds or separator is None:
            continue
        cells = list(_cells(text, line.start(), line.end(), separator))
        rows += 1
        if len(cells) < 2 or abs(len(cells) - width) > 1 or rows > _MAX_ROWS:
            ruled = not any(c.isalnum() for c in text[line.start() : line.end()])
            kinds = kinds if ruled else {}
            continue
        for index, kind in kinds.items():
            if index < len(cells) and _CELL[kind].fullmatch(text, *cells[index]):
                found.append((*cells[index], kind))
    return found


def heading_kind(heading: str) -> str:
    """What stands under a heading that identifies: name, fiscal, record, phone, address, place, date; else empty."""
    return _KIND.get("_".join(re.findall(r"[^\W_]+", fold(heading))), "")


def _heading(text: str, start: int, end: int) -> tuple[re.Pattern[str], dict[int, str], int] | None:
    """Separator, kinds by column and width, when a line is a row of headings."""
    for separator in _SEPARATORS:
        cells = list(_cells(text, start, end, separator))
        if len(cells) < (3 if separator.pattern.startswith(",") else 2):
            continue
        labels = [text[a:b] for a, b in cells]
        kinds = {i: kind for i, label in enumerate(labels) if (kind := heading_kind(label))}
        if kinds and not any(c.isdigit() for label in labels for c in label):
            return separator, kinds, len(cells)
    return None


def _cells(text: str, start: int, end: int, separator: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Start and end of each cell of a line without its blanks; an empty first and last one are no cells."""
    at, number = start, 0
    ends = [(m.start(), m.end()) for m in separator.finditer(text, start, end)] + [(end, end)]
    for stop, following in ends:
        a, b = at, stop
        while a < b and text[a] in ' \t"':
            a += 1
        while b > a and text[b - 1] in ' \t"':
            b -= 1
        if a < b or (number > 0 and following < end):
            yield a, b
            number += 1
        at = following
