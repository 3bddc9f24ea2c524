"""What identifies a person in Italian and English clinical text, as patterns: data for `text.py`, no behaviour.

Each rule is (label, pattern); `titled` is a name after a title or a relation. When the pattern has a group named `v`,
that group is the span, else the whole match.
Patterns are linear: no nested repetition over the same characters.
"""

from __future__ import annotations

import re

__all__ = ["ADJACENT", "CONTEXT_PLACE", "EPONYM_BEFORE", "PLACEHOLDERS", "RELATIVES", "RULES", "TITLES"]

PLACEHOLDERS: dict[str, dict[str, str]] = {
    "it": {
        "name": "[NOME]", "fiscal": "[CF]", "date": "[DATA]", "phone": "[TELEFONO]", "email": "[EMAIL]", "url": "[URL]",
        "address": "[INDIRIZZO]", "place": "[LUOGO]", "record": "[CODICE]", "document": "[DOCUMENTO]",
        "account": "[CONTO]", "facility": "[STRUTTURA]", "age": "[ETA]", "network": "[RETE]",
    },
    "en": {
        "name": "[NAME]", "fiscal": "[TAXID]", "date": "[DATE]", "phone": "[PHONE]", "email": "[EMAIL]", "url": "[URL]",
        "address": "[ADDRESS]", "place": "[PLACE]", "record": "[CODE]", "document": "[DOCUMENT]",
        "account": "[ACCOUNT]", "facility": "[FACILITY]", "age": "[AGE]", "network": "[NETWORK]",
    },
}  # fmt: skip

_UP = r"[A-ZÀ-ÖØ-Þ]"
_NAME = rf"(?:(?:D|De|Di|Da|Del|Della|Dell|Lo|La|Le|Van|von|O|Mc|Al|El)['’ ])?{_UP}[\w'’\-]*\w"
_NAMES = rf"{_NAME}(?:[ \t]+(?:{_UP}\.[ \t]*)?{_NAME}){{0,3}}"
_INITIAL = rf"(?:{_UP}\.[ \t]*){{0,3}}"
_NUM = r"(?:n(?:r|um(?:ero)?)?[.°º]?|no\.?|#|:|nr\.?|id|è|e'|is)"
_CODE = r"[A-Z0-9](?:[A-Z0-9]|[\-/.](?=[A-Z0-9])){2,24}"

TITLES = (
    r"(?:dott\.?ssa|dottoressa|dott\.?|dottor|dr\.?ssa|dr\.?|prof\.?ssa|professoressa|prof\.?|professor|sig\.?ra|sig\.?na"
    r"|sigg?\.?|signora|signorina|signor|avv\.?|ing\.?|don|suor|infermier[ae]|inf\.?|ostetrica|fisioterapista|oss"
    r"|tsrm|psicolog[oa]|caposala|coordinatrice|assistente sociale|collega|mr\.?|mrs\.?|ms\.?|miss|doctor|nurse"
    r"|professor|paziente|pz\.?|paz\.?|patient|assistit[oa]|medico curante|mmg|curante|refertat[oa] da|firmato(?: da)?"
    r"|refertante|medico|chirurgo|anestesista|radiologo|primario|physician|surgeon|signed(?: by)?|nome|cognome|name"
    r"|surname|nominativo|detto|detta|chiamat[oa]|si chiama)"
)
RELATIVES = (
    r"(?:moglie|marito|figli[oa]|madre|padre|fratello|sorella|nipote|nonn[oa]|zi[oa]|cugin[oa]|genero|nuora|suocer[oa]"
    r"|compagn[oa]|coniuge|convivente|badante|caregiver|tutore|tutrice|amministratore di sostegno|vicin[oa] di casa"
    r"|wife|husband|son|daughter|mother|father|brother|sister|partner|niece|nephew|uncle|aunt)"
)
# A capitalised word after these is a place when it is a municipality.
CONTEXT_PLACE = re.compile(
    rf"\b(?:a|ad|di|da|in|presso|nat[oa] a|residente a|domiciliat[oa] a|from|at|of)\s+(?P<v>{_UP}\w+(?:[ '’]{_UP}\w+)*)"
)
EPONYM_BEFORE = re.compile(
    r"(?:malattia|morbo|sindrome|segno|linfoma|scala|score|indice|punteggio|classificazione|classe|criteri|tumore"
    r"|sarcoma|esofago|manovra|test|ernia|diverticolo|legamento|m|s|disease|syndrome|sign|lymphoma|scale|test)"
    r"\.?\s+(?:(?:di|de|del|della|dell'|d'|of|non[- ])\s*)?$",
    re.IGNORECASE,
)
ADJACENT = re.compile(rf"(?<![\w'’]){_NAME}(?:[ \t]+(?:{_UP}\.[ \t]*)?{_NAME})+")

_I = re.IGNORECASE
RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("email", re.compile(r"[\w.+\-]{1,64}@[\w\-]{1,63}(?:\.[\w\-]{1,63})+")),
    ("url", re.compile(r"\b(?:https?://|ftp://|www\.)[^\s<>\"')]+", _I)),
    ("url", re.compile(r"\b[\w\-]{2,63}\.(?:it|com|org|net|eu|gov|edu|info)\b(?:/\S*)?", _I)),
    (
        "fiscal",
        re.compile(
            r"\b[A-Z]{3}[ ]?[A-Z]{3}[ ]?[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[ ]?[A-Z][0-9LMNP-V]{3}[ ]?[A-Z]\b", _I
        ),
    ),
    ("fiscal", re.compile(r"\b(?:c\.?\s?f\.?|cod(?:ice|\.)? fisc(?:ale|\.)?)\s*[:=]?\s*(?P<v>[A-Z0-9]{11,17})\b", _I)),
    ("account", re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){3,7}(?:[ ]?[A-Z0-9]{1,3})?\b")),
    ("document", re.compile(r"\b80380\d{15}\b")),
    ("document", re.compile(r"\b(?:[A-Z]{2}\d{7}|[A-Z]{2}\d{5}[A-Z]{2}|[A-Z]{2}[ ]?\d{3}[ ]?[A-Z]{2})\b")),
    (
        "document",
        re.compile(
            rf"\b(?:patente|passaporto|carta d['’]identit[àa]|c\.?i\.?e?\.|tessera sanitaria|t\.?s\.?|team|passport"
            rf"|driving licen[cs]e|targa)\s*(?:{_NUM}\s*){{0,2}}(?P<v>(?=\S*\d){_CODE})",
            _I,
        ),
    ),
    (
        "record",
        re.compile(
            rf"\b(?:cartell[ae](?: clinic[ahe]+)?|cart\.? clin\.?|c\.\s?c\.|nosologic[oa]|nos\.|mrn|accesso"
            rf"|accettazione"
            rf"|pratica|sdo|verbale|impegnativa|ricetta|nre|accession(?: number)?|medical record(?: number)?|record"
            rf"|case"
            rf"|scheda|codice(?: paziente| sanitario| assistito| interno)?|id(?: paziente| patient)?|matricola"
            rf"|protocollo"
            rf"|referto|esame|richiesta|ricovero|hospital number|nhs(?: number)?|ssn|campione|provetta|biopsia"
            rf"|istologico)"
            rf"\s*(?:{_NUM}\s*){{0,3}}(?P<v>(?=[A-Z\-/.]*\d){_CODE})",
            _I,
        ),
    ),
    ("record", re.compile(r"(?<![\w.,])(?=[A-Z]*\d)(?=\d*[A-Z])[A-Z0-9]{8,}(?![\w])")),
    ("record", re.compile(r"(?<![\w.,])[A-Z]{2,6}[\-_/]\d{3,}(?:[\-_/]\w+)*\b")),
    ("record", re.compile(r"(?<![\w.,\-/])\d{7,}(?![\w,]|\.\d)")),
    ("network", re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9A-F]{2}:){5}[0-9A-F]{2}\b", _I)),
    ("network", re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|\b\d+(?:\.\d+){5,}\b", _I)),
    (
        "phone",
        re.compile(
            r"\b(?:tel(?:efono)?|cell(?:ulare)?|fax|recapito|phone|mobile|call)\b\.?\s*(?:[:n.°]\s*)*"
            r"(?P<v>\+?\d[\d\s./\-]{4,16}\d)",
            _I,
        ),
    ),
    (
        "phone",
        re.compile(r"(?<![\w.,/])(?:\+39|0039)[\s.\-]?\d{2,4}[\s.\-]?\d{2,4}[\s.\-]?\d{2,4}(?:[\s.\-]?\d{1,4})?\b"),
    ),
    ("phone", re.compile(r"(?<![\w.,/])(?:3\d{2}[\s./\-]?\d{3}[\s.\-]?\d{3,4}|0\d{1,3}[\s./\-]\d{5,8})\b")),
    ("phone", re.compile(r"(?<![\w.,/])\+\d{1,3}[\s.\-]?(?:\d{2,4}[\s.\-]?){2,4}\d")),
    (
        "address",
        re.compile(
            r"\b(?:via|viale|v\.le|piazza|p\.?zza|piazzale|p\.le|corso|c\.so|largo|vicolo|strada|contrada|c\.da"
            r"|localit[àa]|loc\.|frazione|fraz\.|borgo|salita|lungomare|galleria|rione|traversa)"
            rf"\s+(?:(?:del(?:la|le|l['’])?|dei|degli|di|dello|dell['’]|san|santa|s\.)\s*)*{_UP}?(?:[\w'’.]+\s+){{0,4}}?"
            rf"(?:{_UP}[\w'’]+|[\w'’]+)\s*,?\s*(?:n(?:\.|°|r\.?)?\s*|civico\s+)?\d{{1,4}}(?:\s?/?[A-Za-z]\b)?"
            rf"(?:\s*[,\-]?\s*\d{{5}})?(?:\s*[,\-]?\s*(?-i:{_UP})\w+(?:\s\([A-Z]{{2}}\))?)?",
            _I,
        ),
    ),
    (
        "address",
        re.compile(
            r"\b(?i:via|viale|piazza|piazzale|corso|largo|vicolo|contrada|localit[àa]|frazione)"
            rf"\s+(?:(?:del(?:la|le|l['’])?|dei|degli|di|san|santa|s\.)\s*)*{_NAMES}"
        ),
    ),
    (
        "address",
        re.compile(rf"\b\d{{1,5}}\s+(?:{_UP}\w+\s+){{1,3}}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Drive)\b"),
    ),
    ("place", re.compile(rf"\bCAP\s*:?\s*\d{{5}}(?:\s+{_UP}\w+)?|\b\d{{5}}\s+{_UP}\w+(?:\s+\([A-Z]{{2}}\))?")),
    (
        "place",
        re.compile(
            rf"\b(?i:nat[oa]|residente|domiciliat[oa]|abita|vive|proveniente|trasferit[oa]|lives|born)"
            rf"\s+(?i:a|ad|in|da|at)\s+(?P<v>{_NAMES}(?:\s*\([A-Z]{{2}}\))?)"
        ),
    ),
    ("place", re.compile(rf"(?P<v>{_UP}\w+)\s*\((?:[A-Z]{{2}})\)")),
    (
        "facility",
        re.compile(
            r"\b(?:Ospedale|Osp\.|Policlinico|IRCCS|I\.R\.C\.C\.S\.|Clinica|Casa di Cura|Istituto|Poliambulatorio|RSA"
            r"|Azienda Ospedaliera(?: Universitaria)?|A\.?O\.?U?\.?|ASL|ASST|AUSL|USL|ASP|Presidio|Fondazione|Hospice"
            rf"|Hospital|Clinic)\s+(?:(?:di|del|della|dei|dell['’]|of)\s*)*(?:\d+\b|{_NAMES})(?:\s+(?:di|of)\s+{_NAMES})?"
        ),
    ),
    ("facility", re.compile(rf"\b{_NAMES}\s+(?:Hospital|Clinic|Medical Cent(?:er|re))\b")),
    ("age", re.compile(r"\b(?P<v>9\d|1[0-2]\d)(?:enne\b|\s*(?:anni|aa\.?|a\.|years?|yo\b|y/o|yrs?))", _I)),
    ("age", re.compile(r"\b(?:di anni|et[àa](?: di)?|aged?)\s*:?\s*(?P<v>9\d|1[0-2]\d)\b", _I)),
    ("titled", re.compile(rf"\b(?i:{TITLES})\s*[:,]?\s*(?P<v>{_INITIAL}{_NAMES}|(?:{_UP}\.[ \t]*){{1,3}}(?!\w))")),
    ("titled", re.compile(rf"\b(?i:{RELATIVES})\s*[:,(]?\s*(?P<v>{_INITIAL}{_NAMES})")),
    ("name", re.compile(rf"(?<![\w.]){_UP}\.[ ]?{_UP}\.(?!\s?{_UP}\.)(?=[\s,;)]|$)")),
    ("name", re.compile(rf"(?<![\w.]){_UP}\.[ ]?{_UP}[a-zà-ÿ]{{2,}}(?:[ ]{_UP}[a-zà-ÿ]{{2,}})?")),
)
