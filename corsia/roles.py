"""What a column probably is, by its name: the guess that `corsia init` writes, for the site to correct."""

from __future__ import annotations

import re

from privacy.deid.deny import fold

__all__ = ["role_of"]

_WORDS = {
    "patient": ("patient_id", "patient", "pid", "mrn", "id_paziente", "paziente", "subject_id", "subject"),
    "identifier": ("name", "surname", "nome", "cognome", "codice", "fiscal", "phone", "telefono", "address", "email"),
    "birthdate": ("birth", "nascita", "dob"),
    "date": ("date", "data", "_on", "day"),
    "text": ("note", "text", "report", "referto", "anamnesi", "comment", "diagnosi"),
    "quasi": ("age", "eta", "sex", "sesso", "gender", "zip", "cap", "comune", "city"),
}
_PERSON = frozenset({"paziente", "pazienti", "patient", "patients", "pid", "mrn", "subject", "soggetto", "nosologico"})
_NUMBERED = frozenset("id ids uid cod codice code num numero number nr no n record key progressivo".split())


def role_of(name: str) -> str:
    """A role of `edge.config`: patient, identifier, text, date, birthdate, quasi, else value."""
    folded = fold(name)
    words_of = set(filter(None, re.split(r"[\W_]+", folded)))
    if words_of & _PERSON and words_of <= _PERSON | _NUMBERED:  # "Cod. Paziente", and no "sesso paziente"
        return "patient"
    for role, words in _WORDS.items():
        if any(folded == word if role == "patient" else word in re.split(r"[_\W]", folded) for word in words):
            return role
    return "value"
