"""What identifies a person in Italian and English clinical text, as patterns: data for `text.py`, no behaviour.

Each rule is (label, pattern). When the pattern has a group named `v`, that group is the span, else the whole match.
`titled`, `labelled` and `related` are candidates for names that `names.py` trims. They read a `View`: quotes and
dashes are plain. Patterns are linear: every repetition is bounded, none is nested over the same characters.
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import re

from privacy.deid.candidates import UPPER

__all__ = ["CONTEXT_PLACE", "NOT_A_STREET", "PLACEHOLDERS", "PLAIN_PLACE", "RULES", "UNIT_PLACE"]

PLACEHOLDERS: dict[str, dict[str, str]] = {
    "it": {
        "name": "[NOME]", "fiscal": "[CF]", "date": "[DATA]", "phone": "[TELEFONO]", "email": "[EMAIL]", "url": "[URL]",
        "address": "[INDIRIZZO]", "place": "[LUOGO]", "record": "[CODICE]", "document": "[DOCUMENTO]",
        "account": "[CONTO]", "facility": "[STRUTTURA]", "age": "[ETA>89]", "network": "[RETE]",
    },
    "en": {
        "name": "[NAME]", "fiscal": "[TAXID]", "date": "[DATE]", "phone": "[PHONE]", "email": "[EMAIL]", "url": "[URL]",
        "address": "[ADDRESS]", "place": "[PLACE]", "record": "[CODE]", "document": "[DOCUMENT]",
        "account": "[ACCOUNT]", "facility": "[FACILITY]", "age": "[AGE>89]", "network": "[NETWORK]",
    },
}  # fmt: skip

_U = UPPER
_S = r"[ \t]"
_P = r"(?:[Dd]e|[Dd]i|[Dd]a|[Dd]el|[Dd]ella|[Dd]alla|[Dd]egli|[Dd]ei|Lo|La|Le|Li|[Vv]an|[Vv]on|[Dd]er|[Dd]en|[Dd]os|El|Al|Ben|Bin|D|O|Mc|Dos|St)"
_NAME = rf"(?:{_P}['\s]){{0,2}}{_U}[\w'\-]{{0,40}}"
_NAMES = rf"{_NAME}(?:[ \t]{{1,3}}(?:{_U}\.{_S}{{0,2}})?{_NAME}){{0,4}}"
_INITIAL = rf"(?:{_U}\.{_S}{{0,2}}){{0,3}}"
_NUM = r"(?:n(?:r|um(?:ero)?)?[.°º]?|no\.?|#|:|nr\.?|id|è|e'|is|=|n\.ro|cod\.?|del paziente|paziente|ricovero)"
_CODE = r"[A-Z0-9](?:[A-Z0-9]|[\-/._](?=[A-Z0-9])){2,24}"
_I = re.IGNORECASE

_STRONG = (
    r"(?:dott\.?{s}?(?:ssa|ri|sse)|dottoress[ae]|dottori|dott\.?|dottore?|dr\.?{s}?ssa|drs?\.?|prof\.?{s}?ssa|professoressa|prof\.?|professore?"
    r"|sig\.?{s}?ra|sig\.?{s}?na|sigg?\.?(?:ri)?|signora|signorina|signori?|avv\.?|ing\.?|geom\.?|arch\.?|ft\.?|a\.s\.|rag\.?|don|suor|padre|mons\.?"
    r"|mr\.?|mrs\.?|ms\.?|miss|doctor|professor|sister|sir|lady|nurse|detto|detta|chiamat[oa]|si chiama|di nome|a nome|named|called)"
).replace("{s}", _S)
_WEAK = (
    (
        r"(?:infermier[ae]|inf\.?|ostetrica|fisioterapista|logopedista|oss|tsrm|psicolog[oa]|caposala|coordinatrice|coordinatore"
        r"|assistente sociale|collega|paziente|pz\.?|pte\.?|paz\.?|patient|assistit[oa]|medico(?: curante| refertante| di base| di guardia)?"
        r"|mmg|curante|pediatra|cardiolog[oa]|oncolog[oa]|neurolog[oa]|chirurg[oa]|anestesista|radiolog[oa]|urolog[oa]|ginecolog[oa]"
        r"|(?:letto|lett\.|bed|camera|stanza) \d{{1,3}}{s}?[:\-)]?|reperibile|op\.|vedov[oa]|di turno|(?:i|ii|1°|2°|primo|secondo) (?:op\.|operatore|aiuto)"
        r"|pts?\.?|thank you for (?:seeing|referring)|spoke (?:to|with)|discussed with|reviewed with|parlato con|colloquio con|assieme a|insieme a|affidat[oa] a|interpreta|traduce|a cura di|a firma(?: di| del)?"
        r"|(?:accompagnat|assistit|visitat|operat|valutat|seguit|eseguit|refertat|compilat|redatt|firmat|inviat|segnalat|richiest|dettat|prescritt|sostituit|ritirat)[oaie] da(?:l|lla)?"
        r"|(?:seen|reviewed|assessed|examined|operated|performed|written|typed|accompanied|referred|authorised|authorized|completed) by|e-?mail (?:from|to)|letter (?:from|to)|call(?:ed)? (?:from|by|to)"
        r"|contattare|chiamare|avvisare|informare|contattat[oa]|avvisat[oa]|allertat[oa]|informat[oa]|sentit[oa]|convocat[oa]|interpellat[oa]|richiedente|prescrittore|utente|donatore|ricevente|interprete|mediat(?:ore|rice)"
        r"|ciao|salve|buongiorno|buonasera|hi|hello|ortopedic[oa]|primario|direttore|specializzand[oa]|tirocinante|notaio"
        r"|firmato|f\.to|refertat[oa]|refertante|visto|validat[oa]|dettat[oa]|operatore|aiuto|tutore|tutrice"
        r"|physician|surgeon|consultant|registrar|radiologist|cardiologist|oncologist|practitioner|gp|matron|signed|dictated|reported"
        r"|baby|neonat[oa]|bimb[oa]|bambin[oa]|minore)(?:{s}(?:(?-i:da|dal|dalla)|by|e refertato da|elettronicamente da|digitalmente da|electronically by))?"
    )
    .replace("{s}", _S)
    .replace("{{", "{")
    .replace("}}", "}")
)
_RELATIVE = (
    r"(?:moglie|marito|figli[oae]|madre|mamma|padre|pap[àa]|fratell[oi]|sorell[ae]|nipot[ei]|nonn[oa]|zi[oa]|cugin[oa]|genero|nuora|suocer[oa]"
    r"|cognat[oa]|compagn[oa]|coniuge|convivente|badante|caregiver|care-giver|tutore|tutrice|amministratore di sostegno|ads|vicin[oa](?: di casa)?"
    r"|amic[oa]|familiare|genitor[ei]|gemell[oa]|vedov[oa] di|ved\.|accompagnat[oa] da|accompagnatore|accompagnatrice"
    r"|wife|husband|son|daughter|mother|father|brother|sister|partner|niece|nephew|uncle|aunt|grandson|granddaughter|friend|neighbou?r|carer"
    r"|next of kin|spouse|twin)"
)
_LABEL = (
    (
        r"(?:cognome(?:{s}e{s}nome)?|nome(?:{s}e{s}cognome)?|nominativo|nome paziente|paziente|pz|assistit[oa]|intestatario|sig\.?|dott\.?|medico|firma(?: del medico| e timbro)?"
        r"|medico (?:curante|refertante|richiedente|prescrittore|responsabile|dimettente|inviante|radiologo)|curante|mmg|refertatore|refertante"
        r"|(?:primo|secondo|terzo|i|ii|1°|2°) (?:operatore|aiuto)|operatore|operatori|aiuto|anestesista|chirurgo|strumentista|ferrista|infermiere|infermiera"
        r"|tecnico|tsrm|ostetrica|direttore|primario|responsabile|specialista|redatto da|compilato da|validato da|firmato da|f\.to|richiedente|contatto|referente|parente|familiare|caregiver|badante|tutore"
        r"|moglie|marito|figlio|figlia|madre|padre|fratello|sorella|nubile"
        r"|(?:patient|first|last|full|given|family|maiden|birth)?{s}?name|surname|forename|patient|consultant|gp|physician|surgeon|radiologist"
        r"|utente|donatore|ricevente|prescrittore|interprete|nominativo del \w{{4,12}}|alla c\.a\.|to|from|da|a|author|signed(?: by)?|dictated by|reported by|verified by|transcribed by|attending|ordering|tech(?:nologist|nician)?|pt|resident|intern|fellow|pcp|referring physician|nurse|next of kin|nok|contact|emergency contact|cc|re|dear)"
    )
    .replace("{s}", _S)
    .replace("{{", "{")
    .replace("}}", "}")
)
_FACILITY = (
    r"(?:(?i:ospedal[ei]|policlinico|casa di (?:cura|riposo)|casa della|istituto|azienda ospedalier[ao](?:[ -]universitaria)?|presidio(?: ospedaliero)?|fondazione|poliambulatorio|residenza|comunit[àa] terapeutica)|(?<![Cc]artella )(?<![Ss]toria )(?<![Rr]elazione )[Cc]linica|CLINICA(?=[ ](?:SAN|SANTA|VILLA|CASA|MADONNA)[ ])|Osp\.|P\.?O\.|IRCCS|I\.R\.C\.C\.S\."
    r"|RSA|R\.S\.A\.|A\.O\.U?\.?|AOU|AO|ASL|ASST|AUSL|USL|ULSS|ASP|ATS|A\.S\.L\."
    r"|Hospice|hospice|Centro [Mm]edico|Laboratorio|Villa|Hospital|Clinic|Surgery|Infirmary)"
)
_WARD = (
    r"(?:U\.?{s}?O\.?{s}?[CSD]?\.?(?:D\.)?|UOSD|S\.C\.|S\.S\.D\.|Unit[àa] Operativa(?: Complessa| Semplice)?|Reparto|Divisione|Dipartimento|Degenza|Padiglione|Pad\.|Stanza|Ward|Unit|Bay|Room)"
).replace("{s}", _S)
_SPECIALTY = (
    r"(?:medicina|chirurgia|cardiologia|oncologia|ematologia|neurologia|neurochirurgia|pneumologia|nefrologia|urologia|ortopedia|geriatria|pediatria|ginecologia|ostetricia"
    r"|gastroenterologia|radiologia|radioterapia|rianimazione|terapia intensiva|psichiatria|dermatologia|endocrinologia|diabetologia|reumatologia|infettivologia"
    r"|malattie infettive|otorinolaringoiatria|orl|oculistica|lungodegenza|riabilitazione|cardiochirurgia|utic|neonatologia|cure palliative|anestesia)"
)
_PROVINCE = (
    "(?:A[GLNOPQRTV]|B[AGILNORSTZ]|C[ABEHILNORSTZ]|E[EN]|F[CEGIMR]|G[EOR]|I[MS]|KR|L[CEIOTU]|M[BCEINOST]|N[AOU]|O[RT]|P[ADEGINORTUVZ]|R[ACEGIMNO]"
    "|S[AIOPRSUV]|T[AENOPRSV]|UD|V[ABCEIRTV])"
)
_STREET = (
    r"(?:via|v\.(?=[ \t])|viale|v\.le|piazza|p\.?zza|piazzale|p\.le|corso|c\.so|largo|l\.go|vicolo|vico|strada|str\.|contrada|c\.da|c/da|localit[àa]|loc\.|frazione|fraz\.|borgo"
    r"|salita|lungomare|lungotevere|lungarno|galleria|rione|traversa|calle|campo|fondamenta|villaggio|circonvallazione|piazzetta)"
)
_LINK = r"(?:(?:del(?:la|le|lo|l')?|dei|degli|di|dell'|san|santa|sant'|s\.|ss\.|don|gen\.|col\.|cav\.|f\.lli|fratelli|xx|iv|[a-z]\.)\s?)"
_HOUSE = r"(?:\s?,?\s?(?:n(?:\.|°|º|r\.?|\.ro)?\s?|civico\s|num\.\s|km\s)?(?:\d{1,4}(?:\s?[/\-]?\s?(?:[A-Za-z]|bis|ter|\d{1,3}))?|s\.?n\.?c\.?)(?![\w%]))"
_REST = (
    rf"(?:\s?[,\-]?\s?(?:int(?:erno|\.)|scala|sc\.|piano|pal(?:azzina|\.))\s?\w{{1,3}}){{0,3}}(?:\s?[,\-]?\s?(?:cap\s?)?\d{{5}}(?!\d))?"
    rf"(?:\s?[,\-]?\s?(?-i:{_U})[\w'\-]{{2,30}}(?:\s(?:(?:di|del|della|a|al|in|sul)\s)?(?-i:{_U})[\w'\-]{{2,30}}){{0,2}}(?=\s?\(|\s(?-i:{_PROVINCE})(?!\w)))?(?:\s?\((?-i:[A-Z]{{2}})\)|\s(?-i:{_PROVINCE})(?!\w))?"
)
NOT_A_STREET = re.compile(
    r"\s{0,3}(?:d'|l')?(?:orale|os\b|endovenosa|ev\b|e\.v|sottocutanea|sc\b|s\.c|intramuscolare|im\b|i\.m|inalatoria|rettale|venosa|transdermica|sublinguale|topica|biliare|bilio|biliari"
    r"|aerea|aeree|respiratori|urinari|parenterale|enterale|percutanea|transtoracica|epidurale|intratecale|arteriosa|femorale|radiale|giugulare|laparoscopic|laparotomic"
    r"|endoscopic|vaginale|nasale|accesso|di\b|terapia|trattamento|ciclo|chemio|infusione|valutazione|definizione|approfondiment|accertament|follow|monitoraggio|ricovero|degenza|dissettiva"
    r"|ex|and|di somministrazione|telefonica|mail|fax|pec|web|libera|generale|anteriore|posteriore|alta|bassa)",
    _I,
)
CONTEXT_PLACE = re.compile(
    rf"(?<!\w)(?i:a|ad|da|in|presso|di|nat[oa] a|comune di|citt[àa] di|provincia di|prov\. di|from|at|of|near|per)[ \t]{{1,2}}(?P<v>{_U}[\w'\-]{{1,30}}(?:[ \t](?:(?:di|del|della|dei|in|al|sul|nell')[ \t]?)?{_U}[\w'\-]{{1,30}}){{0,3}})"
)
UNIT_PLACE = re.compile(
    rf"(?<!\w)(?i:{_SPECIALTY}|p\.?s\.?|pronto soccorso|servizio \w{{5,20}}|distretto|consultorio|poliambulatorio|ambulatorio \w{{5,20}})(?:[ \t](?i:interna|generale|d'urgenza|toracica|vascolare|medica))?"
    rf"[ \t](?:(?i:di|del|della|dell'|a)[ \t]?)?(?P<v>{_U}[\w'\-]{{1,30}}(?:[ \t](?:(?i:di|del|della|dei|in|al|sul|nell')[ \t]?)?{_U}[\w'\-]{{1,30}}){{0,3}})"
)
PLAIN_PLACE = re.compile(
    rf"(?<![\w'])(?P<v>{_U}[a-zà-ÿ']{{3,30}}(?:[ \t](?:(?:di|del|della|dei|in|al|sul)[ \t])?{_U}[a-zà-ÿ']{{2,30}}){{0,3}})(?![\w])"
)

RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("email", re.compile(r"(?<![\w.+\-])[\w.+\-]{1,64}\s?(?:@|\[at\]|\(at\)|\schiocciola\s)\s?[\w\-]{1,63}(?:\.[\w\-]{1,63}){1,5}", _I)),
    ("url", re.compile(r"\b(?:https?://|ftp://|www\.)[^\s<>\"')]{1,2000}", _I)),
    ("url", re.compile(r"(?<![\w.@\-])(?:[\w\-]{2,63}\.){1,4}(?:it|com|org|net|eu|gov|edu|info|uk|fr|de|ch|io|health)\b(?:/[^\s<>\"')]{0,500})?", _I)),
    ("url", re.compile(r"(?<![\w.@])@[\w.]{3,30}")),
    (
        "fiscal",
        re.compile(
            r"(?<![^\W_])[A-Z]{3}[ .\-]?[A-Z]{3}[ .\-]?[0-9LMNP-V]{2}[ ]?[A-EHLMPRST][ ]?[0-9LMNP-V]{2}[ .\-]?[A-Z][ ]?[0-9LMNP-V]{3}[ .\-]?[A-Z](?![^\W_])",
            _I,
        ),
    ),
    ("fiscal", re.compile(r"(?<![^\W_])[A-Z]{6}[0-9OI]{2}[A-Z][0-9OI]{2}[A-Z]\d{2,3}[A-Z]{0,2}(?![^\W_])", _I)),
    ("fiscal", re.compile(r"(?<!\w)(?:c\.?\s?f\.?|cod(?:ice|\.)?\s?fisc(?:ale|\.)?|p\.?\s?iva)\s{0,3}[:=|]?\s{0,3}(?P<v>(?=[A-Z]{0,16}\d)[A-Z0-9]{11,18})(?!\w)", _I)),
    ("account", re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){3,7}(?:[ ]?[A-Z0-9]{1,3})?(?!\w)")),
    ("account", re.compile(r"(?<!\w)IT[ \-]?\d[ ]?\d[ \-]?[A-Z](?:[ \-]?\d){22}(?!\w)", _I)),
    ("document", re.compile(r"(?<!\d)80380[ \-]?(?:\d[ \-]?){14}\d(?!\d)")),
    ("document", re.compile(r"(?<!\w)(?:[A-Z]{2}\d{7}|C[A-Z]\d{5}[A-Z]{2}|U1[A-Z0-9]{7}[A-Z]|[A-HJ-NPR-TV-Z]{2}[ \-]?\d{3}[ \-]?[A-HJ-NPR-TV-Z]{2}|(?:STP|ENI)[ ]?\d{6,14})(?!\w)")),
    (
        "document",
        re.compile(
            r"(?<!\w)(?:patente(?: di guida)?(?: [AB]\b)?|passaporto|carta d'identit[àa](?: elettronica)?|c\.?i\.?e?\.|documento(?: d'identit[àa])?|tessera sanitaria|tess\. san\.|t\.?s\.?|team|passport|permesso di soggiorno"
            rf"|driv(?:ing|er'?s?'?) licen[cs]e|identity card|id card|targa|targato|targata|veicolo|polizza|(?:licen[cs]e |number )?plate|p\.?s\. n\.|registration)\s{{0,3}}(?:{_NUM}\s{{0,3}}){{0,3}}(?P<v>(?=[A-Z\-/]{{0,8}}[ ]?\d)[A-Z0-9](?:[A-Z0-9]|[ \-/.](?=[A-Z]{{0,2}}\d)|[ ](?=[A-Z]{{2}}\b)){{3,24}})",
            _I,
        ),
    ),
    (
        "record",
        re.compile(
            r"(?<!\w)(?:cartell[ae](?: clinic[ahe]{1,3})?|cart\. ?clin\.?|c\.\s?c\.|nosologic[oa]|nosol?\.|n\.?\s?nos\.?|mrn|accesso(?: ps)?|accettazione|pratica|sdo|verbale(?: ps)?|impegnativa|ricetta(?: elettronica)?|nre"
            r"|accession(?: number)?|medical record(?: number)?|record(?: number)?|case(?: number)?|chart|scheda|codice(?: paziente| sanitario| assistito| interno| regionale| univoco)?|cod\.? ?(?:paz(?:iente)?|sanitario|assistito|sts)?\.?"
            r"|id(?:entificativo)?(?: paziente| patient| caso| episodio)?|idpaz|patient id|patient number|unit number|matricola|protocollo|prot\.?|es\.|referto|esame|richiesta|ricovero|episodio|pratica|hospital (?:number|no\.?)|nhs(?: number| no\.?)?|ssn"
            r"|campione|provetta|vetrino|biopsia|istologico|ordine (?:dei )?medici(?: (?:di )?\w{3,20})?|es\. ?ist\.?|braccialetto|barcode|ordine|order(?: number)?|specimen|lab(?: number| no\.?)?|tracking|reference|our ref|ref\.?)"
            rf"\s{{0,3}}(?:{_NUM}\s{{0,3}}){{0,4}}(?P<v>(?=[A-Z\-/._]{{0,8}}\d)(?!\d{{1,3}}(?![\w/\-]))(?!\d{{1,2}}[/.\-]\d{{1,2}}[/.\-]){_CODE})",
            _I,
        ),
    ),
    ("record", re.compile(r"(?<!\w)(?:nosologico|cartella(?: clinica)?|mrn|nhs(?: number| no)?\.?|verbale|accesso|id paziente)\s{0,3}(?:n[.°]?\s?|:\s?){0,2}(?P<v>\d{2,4}(?:[ ]\d{2,6}){1,3})(?![\d/])", _I)),
    ("record", re.compile(r"(?<![\w.,])(?=[A-Z]{0,8}\d)(?=\d{0,12}[A-Z])(?=(?:[A-Z]{0,8}\d){4})[A-Z0-9]{8,40}(?!\w)")),
    ("record", re.compile(r"(?<![\w.,])[A-Z]{1,6}[\-_/](?:\d{4,12}|\d{2,4}[\-_/.]\d{2,12})(?:[\-_/]\w{1,12}){0,4}(?!\w)")),
    ("record", re.compile(r"(?<![\w.,])[A-Z]{1,3}\d{6,14}(?!\w)")),
    ("record", re.compile(r"(?<![\w.,])(?:\d{2,4}[\-/][A-Z]{1,3}|[A-Z]{1,3}[\-/]\d{2,4})[\-/]\d{3,8}(?!\w)")),
    ("record", re.compile(r"(?i:ssn|social security)[ :#.]{1,4}(?P<v>\d{3}-\d{2}-\d{4})(?!\d)")),
    ("record", re.compile(r"(?<![\w.,])(?:19|20)\d\d[\-/]\d{4,10}(?!\w)")),
    ("record", re.compile(r"(?<![\w.,\-/])\d{7,}(?![\w,]|\.\d)")),
    ("network", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])|\b(?:[0-9A-F]{2}[:\-]){5}[0-9A-F]{2}\b", _I)),
    ("network", re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b|(?<![\d.])\d{1,40}(?:\.\d{1,40}){5,30}(?!\d)", _I)),
    (
        "phone",
        re.compile(
            r"(?<!\w)(?:tel(?:efono)?|cell(?:ulare)?|cel|fax|recapit[oi](?: telefonic[oi])?|utenza|numero|phone|mobile|mob|call|contattare|chiamare|telephone|ph|interno tel|n\. tel|whatsapp|pager|bleep|ext)\b\.?"
            r"\s{0,3}(?:[:n.°=|]\s{0,2}|(?:al|allo|il|numero|on|at|number|no|abitazione|casa|ufficio|figli[oa]|moglie|marito|home|work)\.?\s){0,3}(?P<v>\(?\+?\d[\d ./\-()]{2,18}\d)(?![\d])(?!\s?(?:mg|ml|cm|mm|%))",
            _I,
        ),
    ),
    ("phone", re.compile(r"(?<![\w.,/])\(?(?:\+|00)\d{1,3}\)?[ .\-/]?(?:\(?\d{1,4}\)?[ .\-/]?){2,5}\d{1,4}(?!\d)")),
    ("phone", re.compile(r"(?<![\w.,/+\-])(?:3\d{2}[ ./\-]{0,3}\d{2,3}[ .\-]?\d{2,4}(?:[ .\-]?\d{1,3})?|0\d{1,3}[ ./\-]{1,3}\d{2,4}[ .\-]?\d{2,4}(?:[ .\-]\d{1,4})?|0[1-9]\d{7,9}|800[ .\-]?\d{3}[ .\-]?\d{3})(?![\w]|[.,]\d)")),
    ("phone", re.compile(r"(?<![\w.,/+\-])(?!\d\d[.\-/]\d\d[.\-/](?:19|20)\d\d)\(?0\d{1,3}\)?[ .\-/]{1,3}(?:\d{2,4}[ .\-]){1,4}\d{2,4}(?![\w]|[.,]\d)")),
    ("phone", re.compile(r"(?<![\w.,/])(?:\(\d{2,5}\)[ ]?\d{3,4}[ \-]?\d{3,4}|\d{3}[.\-]\d{3}[.\-]\d{4}|0\d{2,4} \d{3,4} \d{3,4}|07\d{3}[ ]?\d{6})(?!\d)")),
    (
        "address",
        re.compile(
            rf"(?<!\w)(?P<street>{_STREET})\s{{1,2}}(?P<v>{_LINK}{{0,3}}(?:[^\W\d][\w'.\-]{{0,25}}[ ]){{0,4}}?[^\W\d][\w'.\-]{{1,25}}{_HOUSE}{_REST})",
            _I,
        ),
    ),
    (
        "address",
        re.compile(rf"(?<!\w)(?P<street>(?i:{_STREET}))\s{{1,2}}(?P<v>(?i:{_LINK}){{0,3}}{_NAMES}(?i:{_HOUSE})?{_REST})"),
    ),
    ("address", re.compile(rf"(?<!\w)(?:(?:Flat|Apt|Apartment|Unit)\.? \w{{1,4}},? )?\d{{1,5}}[A-Za-z]?,?[ ](?:[NSEW]\.?[ ])?(?:{_U}[\w'.]{{1,20}}[ ]){{1,3}}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Close|Court|Way|Crescent|Gardens|Terrace|Place|Square|Boulevard|Blvd|Grove|Hill|Row|Walk|STREET|ROAD|AVENUE|LANE|DRIVE|CLOSE|COURT|WAY)\b\.?(?:,? (?:Apt|Unit|Suite|Flat|#)\.? ?\w{{1,5}})?")),
    ("place", re.compile(rf"(?<!\w){_U}[\w'.]{{2,20}}(?:[ ]{_U}[\w']{{2,20}}){{0,2}}, [A-Z]{{2}},? \d{{5}}(?:-\d{{4}})?(?!\d)")),
    ("place", re.compile(rf"(?<!\w)(?i:born|nat[oa])[ \t](?:(?i:on|il|in data|il giorno)[ \t])?[^.\n\r]{{4,25}}?[ \t](?i:a|ad|in)[ \t](?P<v>{_NAMES})")),
    ("place", re.compile(rf"(?<!\w)(?:{_U}[a-z]{{2,20}}(?:[ \-]{_U}?[a-z]{{2,20}}){{0,2}},?[ ])?(?:GIR ?0AA|[A-Z]{{1,2}}\d[A-Z\d]? ?\d[ABD-HJLNP-UW-Z]{{2}})(?!\w)")),
    ("place", re.compile(rf"(?<!\w)(?i:cap|c\.a\.p\.)\s?[:.]?\s?\d{{5}}(?!\d)(?:[ \t\-]{{1,3}}{_NAMES})?")),
    ("place", re.compile(rf"(?<![\w.,/\-])\d{{5}}[ \t\-]{{1,3}}{_U}[\w']{{2,30}}(?:[ \t]{_U}[\w']{{2,30}}){{0,3}}(?:\s?\([A-Z]{{2}}\))?")),
    (
        "place",
        re.compile(
            rf"(?<!\w)(?i:nat[oa]|nascita|residen(?:te|za)|domiciliat[oa]|domicilio|res\.|dom\.|abita(?:nte)?|vive|proven(?:iente|ienza)|trasferit[oa]|originari[oa]|lives|living|born|resident|comune|citt[àa]|luogo di nascita|place of birth|birthplace|city|town)"
            rf"(?:\.{{2,30}})?[ \t]{{0,2}}[:|]?[ \t]{{0,2}}(?!(?:IL|AT|IN|AD|WITH|CON|NEL)(?!\w))(?:(?i:a|ad|in|da|di|at|from|of|near|il \S{{6,10}} a)[ \t]{{1,2}})?(?P<v>{_NAMES}(?:\s?\([A-Z]{{2}}\)|[ ,]{{1,2}}[A-Z]{{2}}(?!\w))?)"
        ),
    ),
    ("place", re.compile(rf"(?<!\w)(?P<v>{_U}[\w']{{2,30}}(?:[ ](?:(?:di|del|della|sul|in|a|al|ai|nel)[ ])?{_U}[\w']{{2,30}}){{0,3}}[ ]?\({_PROVINCE}\))")),
    ("facility", re.compile(rf"(?<!\w)(?P<k>{_FACILITY})[ \t]{{1,2}}(?P<v>(?:(?:(?i:di|del|della|dei|degli|dell'|of|for|per|\"|'|n\.?)[ \t]?){{1,2}})?(?:\d{{1,3}}(?![\d.,])|(?!N[R.\s°:])\"?{_NAMES}\"?|[A-Z]\.{_S}?{_NAMES})(?:[ \t](?:di|of|in|-)[ \t]{_NAMES}){{0,2}})")),
    ("facility", re.compile(rf"(?<!\w)(?:{_U}[\w'.\-]{{0,40}}[ ]){{1,4}}(?:Hospital|Clinic|Infirmary|Hospice|Medical Cent(?:er|re)|Health Cent(?:er|re)|Surgery|Nursing Home|Medical Practice|Ward|HOSPITAL|WARD|CLINIC)\b")),
    ("facility", re.compile(rf"(?<!\w){_WARD}[ \t]{{1,2}}(?P<v>(?:(?i:di|del|della|n\.?|degli|letto)[ \t]{{1,2}})?(?:{_NAMES}(?:[ \t](?:e|ed|and|-|d')[ \t]?{_NAMES})?(?:[ ](?:\d{{1,2}}|[A-Z]|II?I?)(?!\w))?|(?:\d{{1,2}}|[A-Z])[A-Z\d]?(?!\w)))")),
    ("facility", re.compile(rf"(?<!\w)(?i:reparto|ambulatorio|divisione|dipartimento|u\.?o\.?c?\.?)[ \t](?:(?i:di)[ \t])?(?P<v>(?i:{_SPECIALTY})(?:[ \t](?i:interna|generale|d'urgenza|urgenza|toracica|vascolare|medica|plastica|pediatrica|donna|uomini|oncologica|sub|post|intensiva))?(?:[ \t](?:\d{{1,2}}|[A-Z]|II?I?)(?!\w))?)")),
    ("facility", re.compile(rf"(?<!\w)(?=[A-Z])(?i:{_SPECIALTY})(?:[ ](?i:interna|generale|d'urgenza|toracica|vascolare|medica))?[ ](?:[1-9]|I{{1,3}}|IV)(?![\w.,/])(?![ ](?:cicl|volt|mg|gg|giorn|sett|mes|ann|ore|visit|cont))")),
    # A year of birth, which tells an age over 89 as well; other bare years stay.
    ("date", re.compile(r"(?<!\w)(?:nat[oa](?:\s(?:a|ad|in)\s[\w'() ]{2,40}?)?,?\s(?:nel(?:l'anno)?|l'anno)|anno di nascita[ \t]?:?|classe|cl\.|year of birth[ \t]?:?|yob[ \t]?:?|born(?: in [\w' ]{2,30}?)? in)\s{0,2}(?P<v>(?:19|20)\d\d|'\d\d)(?![\w/\-]|[.,]\d)", _I)),
    ("age", re.compile(r"(?<![\w.,])(?P<v>9\d|1[0-2]\d)\s?(?:-?enne\b|(?:anni|aa\.?|a\.|years?|yo\b|y\.?o\.?\b|y/o|yrs?|y\b)(?![ ]fa))", _I)),
    ("age", re.compile(r"(?<![\w.,])(?P<v>9\d|1[0-2]\d)[-\s](?:year|yr)s?[-\s]old", _I)),
    ("age", re.compile(r"(?<!\w)(?:di anni|anni|aa\.?|et[àa]'?(?: di)?|aged?(?: of)?|a\.)\s{0,2}[:=|]?\s{0,2}(?P<v>9\d|1[0-2]\d)(?![\d/%]|[.,]\d)(?!\s?(?:mg|ml|gg|mesi|giorni|settimane|bpm|mm))", _I)),
    ("age", re.compile(r"(?<!\w)(?P<v>9\d|10\d)[ ]?(?:[MF]|M/|F/)(?!\w)")),
    ("age", re.compile(r"(?<!\w)(?P<v>(?:novant|cent)[a-zù]{0,14}(?:enne|enni|enario|enaria)|ultranovantenn[ei]|ultracentenari[oa]|novant[a-zù]{0,9}(?= anni)|cent[a-zù]{0,8}(?= anni)|ninety[\- ]?[a-z]{0,6}(?=[\- ]years?)|(?<=aged )ninety[\- ]?[a-z]{0,6}|nineties|(?:early|mid|late)[ \-](?:nineties|90s)|nonagenarian|centenarian)(?!\w)", _I)),
    ("titled", re.compile(rf"(?<![\w])(?i:{_STRONG})(?![^\W\d_])(?:[ \t]{{0,2}}[:,]?[ \t]{{0,2}}|[ ]?\r?\n)(?=(?P<v>{_INITIAL}{_NAMES}(?:(?:,[ ]?|[ ](?:e|ed|&|and)[ ]){_INITIAL}{_NAMES}){{0,4}}|(?:{_U}\.?[ \t]?){{1,3}}(?!\w)))")),
    ("titled", re.compile(rf"(?i:regards|sincerely|faithfully|saluti|saluto|grazie|thanks|cordialmente|cordialit[àa]|cheers|il medico(?: \w{{4,15}})?|in fede|firma),?[ \t]{{0,3}}(?:\r?\n[ \t]{{0,8}}){{1,3}}(?P<v>{_INITIAL}{_NAMES})")),
    ("titled", re.compile(rf"(?<!\w)(?i:grazie|thanks|cordialmente|un saluto|saluti|regards|ciao|a presto),[ ](?P<v>{_NAMES})[ \t.]{{0,3}}(?=[\n\r]|$)")),
    (
        "short",
        re.compile(
            r"(?<!\w)(?i:paziente|pz\.?|paz\.?|utente|assistit[oa]|patient|pt)[ :]{1,3}(?P<v>[a-zà-ÿ'\-]{2,25}(?:[ ][a-zà-ÿ'\-]{2,25}){1,3})(?=,?[ ](?:nat[oa] (?:il|a|in)|di anni|di \d\d anni|c\.?f\.?|cod|\d{2,3} ?(?:anni|aa|yo)|born|dob|via|viale|piazza|residente|abita|tel|cell|[0-3]?\d/))"
        ),
    ),
    ("short", re.compile(r"(?<!\w)(?i:sig\.?[ ]?(?:ra|na)?|dott\.?[ ]?(?:ssa)?|dr\.?[ ]?(?:ssa)?|mr|mrs|ms|miss|prof\.?)\.?[ ]{1,2}(?=(?P<v>(?:de|di|del|della|dal|lo|la|d|o|el|van|von)?[ ']?[a-zà-ÿ'\-]{2,25}(?:[ ][a-zà-ÿ'\-]{2,25}){0,2}))")),
    ("lower", re.compile(rf"(?<!\w)(?i:{_STRONG}|{_RELATIVE})[ \t]{{1,2}}(?P<v>[a-zà-ÿ'\-]{{2,25}}(?:[ ][a-zà-ÿ'\-]{{2,25}}){{0,2}})")),
    ("labelled", re.compile(rf"(?<![\w])(?i:{_LABEL})[ \t]{{0,3}}(?:[:=|;]|\t|\.{{2,40}}[ \t]?:?)[ \t|]{{0,10}}(?:\n[ \t]{{0,8}}(?=[^\n:]{{2,40}}(?:\n|$)))?(?=(?P<v>[^\W\d_][\w'.\- ,/]{{1,70}}))")),
    ("labelled", re.compile(rf"(?<!\w)(?:COGNOME|NOME|Cognome|Nome|NOMINATIVO|Surname|Name)[ \t]{{1,10}}(?P<v>{_U}[\w'.\- ]{{1,50}})")),
    ("related", re.compile(rf"(?<!\w)(?i:{_WEAK}(?![^\W\d_])|{_RELATIVE}(?![^\W\d_])(?:[ \t]{{0,2}}\r?\n(?![^\n:]{{0,30}}:))?)[ \t]{{0,2}}[:,(]?[ \t]{{0,2}}(?:(?i:{_STRONG})[ \t]{{1,2}})?(?=(?P<v>{_INITIAL}{_NAMES}(?:(?:,[ ]?|[ ](?:e|ed|&|and)[ ]){_NAMES}){{0,3}}|(?:{_U}\.[ \t]?){{1,3}}(?!\w)))")),
)  # fmt: skip
