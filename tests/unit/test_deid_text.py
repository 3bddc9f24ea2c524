"""Free text: what identifies goes, what is medicine stays, and nothing asks the network."""

from __future__ import annotations

import re
import socket

import pytest

from privacy.deid.deny import DenyList
from privacy.deid.text import TextEngine
from privacy.deid.vocabulary import clean
from protocol.errors import InputError


@pytest.fixture(scope="module")
def italian() -> TextEngine:
    return TextEngine("it")


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("Il sig. Mario Rossetti sta bene.", ["Mario", "Rossetti"]),
        ("Visita del dott. Zanardelli Brambillaschi.", ["Zanardelli", "Brambillaschi"]),
        ("La moglie Concetta riferisce tosse.", ["Concetta"]),
        ("Referto a firma di Giuseppe Verdi.", ["Giuseppe", "Verdi"]),
        ("pz. M.R. in buone condizioni", ["M.R."]),
        ("CF RSSMRA80A01H501U.", ["RSSMRA80A01H501U"]),
        ("C.F.: RSSMRA80A01H501X (lettera errata)", ["RSSMRA80A01H501X"]),
        ("codice rssmra80a01h501u", ["rssmra80a01h501u"]),
        ("tel. 333 1234567 oppure +39 02 1234567", ["1234567", "333"]),
        ("cell 3331234567", ["3331234567"]),
        ("nato il 12/03/1950", ["12/03/1950", "1950"]),
        ("Controllo il 3 marzo 2021", ["3 marzo", "2021"]),
        ("nel marzo 2021 e il 5 aprile", ["2021", "aprile"]),
        ("residente in Via Garibaldi 12, 20121 Milano (MI)", ["Garibaldi", "20121", "Milano"]),
        ("abita in piazza dei Martiri n. 4", ["Martiri"]),
        ("nata a Busto Arsizio", ["Busto", "Arsizio"]),
        ("Proveniente da Torino", ["Torino"]),
        ("cartella clinica n. 2021/12345", ["12345"]),
        ("nosologico: 2021004567", ["2021004567"]),
        ("MRN A123456", ["A123456"]),
        ("Ricoverato presso Ospedale San Raffaele", ["Raffaele"]),
        ("mario.rossi@example.it", ["mario", "example"]),
        ("vedi https://example.org/p/123", ["example.org"]),
        ("IBAN IT60X0542811101000000123456", ["0542811101"]),
        ("tessera sanitaria 80380001234567890123", ["80380001234567890123"]),
        ("carta d'identità CA12345AA, patente MI1234567X", ["CA12345AA", "MI1234567X"]),
        ("Paziente di 92 anni", ["92"]),
        ("targa AB123CD, ip 10.1.2.3", ["AB123CD", "10.1.2.3"]),
    ],
)
def test_identifiers_go(italian: TextEngine, text: str, gone: list[str]) -> None:
    clean, spans = italian.redact(text)
    assert [word for word in gone if word in clean] == []
    assert spans
    assert all(0 <= span.start < span.end <= len(text) for span in spans)


@pytest.mark.parametrize(
    "text",
    [
        "Malattia di Parkinson, morbo di Crohn, linfoma di Hodgkin, sindrome di Down.",
        "Classe Child-Pugh B, scala di Glasgow 15, Gleason 3+4, indice di Karnofsky 90.",
        "Adenocarcinoma polmonare stadio IV, in terapia con Pembrolizumab 200 mg ogni 21 giorni.",
        "PSA 4.5 ng/ml, creatinina 1.2 mg/dl, PA 130/80 mmHg, dose 60 Gy in 30 frazioni.",
        "Paziente di 67 anni, affetto da diabete; assume Metformina 500 mg e Lasix 25 mg.",
        "TC Torace e Addome con mdc: nodulo di 12 mm al lobo superiore destro.",
        "piastrine 250000, leucociti 7800, Hb 13.5",
    ],
)
def test_medicine_stays(italian: TextEngine, text: str) -> None:
    assert italian.redact(text)[0] == text


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("niccolo' d'alessandro, riferisce cefalea", ["niccolo", "alessandro"]),
        ("paziente xhevdet cipriotti, nato il 3/4/88", ["xhevdet", "cipriotti"]),
        ("mr o'shaughnessy and mrs smith were seen by dr patel", ["shaughnessy", "smith", "patel"]),
        ("sig.ra Li, paz. Ma Li, dott. Po e la signora Re Ada", ["Li", "Ma", "Po", "Re", "Ada"]),
        ("1) HU YAN aa 45 ernia", ["HU", "YAN"]),
        ("I op. Barison, II op. Dalla Costa", ["Barison", "Dalla", "Costa"]),
        ("Letto 4: Barbon, stabile", ["Barbon"]),
        ("contattare Wioletta (badante) o Zotzotta, figlia", ["Wioletta", "Zotzotta"]),
        ("Kapllani Flutura KPLFTR88D64Z100R", ["Kapllani", "Flutura"]),
        ("Nome..........: Bachisio", ["Bachisio"]),
        ("Hi Saskia,\nsee bed 6.\nThanks, Ru", ["Saskia"]),
        ("Sig.ra D'Angelo, sig. Della Valle, dott. Fabrizio Lo Monaco", ["Angelo", "Valle", "Monaco"]),
        ("IBAN IT 60 X 05428 11101 000000123456", ["60", "05428", "11101", "123456"]),
        ("T.S. 80380 00010 12345 67890", ["80380", "00010", "67890"]),
        ("casa 02-48.19.20.21; ufficio (0382) 987654; +39-340-998.12.34", ["48.19", "987654", "998"]),
        ("codice MNTLRT52R15A9Q4F", ["MNTLRT"]),
        ("rivalutato il 3 c.m., lettera del 12 u.s., visita il 20 p.v.", ["3 c", "12 u", "20 p"]),
        ("11/10 ore 7:00 PA 120/70", ["11/10"]),
        ("Es. 20-I-01234, prot 12345/2021", ["01234", "12345"]),
        ("abita in P.zza Gramsci 3, 20121 Milano (MI)", ["Gramsci", "20121", "Milano"]),
        ("nota alla Neurologia di Cesena, poi in Chirurgia 2", ["Neurologia", "Cesena", "Chirurgia"]),
        ("Reparto di Cardiologia, REPARTO DI NEUROLOGIA", ["Cardiologia", "NEUROLOGIA"]),
        ("donna novantaduenne, aged ninety-two", ["novantaduenne", "ninety-two"]),
        ("il paziente rossi mario, paziente bruno anna maria, pz verdi giuseppe", ["rossi", "mario", "bruno", "verdi"]),
        ("operata dal prof. van der Meer e dal dott. von Hohenzorp", ["Meer", "Hohenzorp"]),
        (
            "Colin Whitmore attended with Mrs Philippa Ashworth and James Smith",
            ["Whitmore", "Ashworth", "James", "Smith"],
        ),
        ("TESTA Giovanni, trauma cranico; Giovanni Testa sta meglio", ["TESTA", "Giovanni", "Testa"]),
        ("nata nel 1931, ved. Bortolan, cl. '41, aa 97, born in 1928", ["1931", "Bortolan", "41", "97", "1928"]),
    ],
)
def test_other_hands_write_otherwise(italian: TextEngine, text: str, gone: list[str]) -> None:
    words = italian.redact(text)[0]
    assert [word for word in gone if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", words)] == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("|Cognome|Nome|CF|\n|HOXHAJ|ARDIT|HXHRDT79P21Z100Z|", "|[NOME]|[NOME]|[CF]|"),
        ("Surname,Forename,MRN\nQuux,Zorp,A-771", "[NOME],[NOME],[CODICE]"),
        ("Paziente\tTelefono\nquux zorp\t0784 123456", "[NOME]\t[TELEFONO]"),
        ("NOME      DATA DI NASCITA   ESAME\nZorpetti  01/02/1960        ECG", "[NOME]  [DATA]        ECG"),
    ],
)
def test_what_stands_under_a_heading_goes(italian: TextEngine, text: str, left: str) -> None:
    assert italian.redact(text)[0].split("\n", 1)[1] == left


@pytest.mark.parametrize(
    "text",
    [
        "catetere di Foley, sonda di Salem, drenaggio di Jackson-Pratt, anastomosi alla Roux, aghi di Veress",
        "Blumberg negativo, Rovsing dubbio, Lasègue positivo, Mingazzini mantenuto, Murphy's sign negative",
        "cute rosa, lesione viola, globuli bianchi, linea alba, nevi neri, dolore franco, VII costa",
        "Coombs diretto negativo, Epstein-Barr IgG pos., Wolff-Parkinson-White, Guillain-Barré, Peutz-Jeghers",
        "Vaccinazioni: Prevenar, Bexsero. Terapia: Eliquis, Luvion, Congescor, Humira. Suture in Vicryl e Prolene",
        "emocoltura positiva per E. Coli, S. Aureus; tampone H. Pylori",
        "Opera di sutura in Vicryl. Nodulo di 4 cm e 3 cm. Apertura orale > 4 cm.",
        "Hartmann procedure, Kocher maneuver, Trendelenburg position, Braden 16, Waterlow 12, Morse 45",
        "Ashworth 2, Barthel 60/100, Arnold-Chiari malformation, Austin Flint murmur",
        "COGNOME;NATO IL;TELEFONO",
        "RELAZIONE CLINICA FINALE",
    ],
)
def test_eponyms_devices_scores_and_plain_words_stay(italian: TextEngine, text: str) -> None:
    assert italian.redact(text)[0] == text


def test_dates_move_and_births_do_not(italian: TextEngine) -> None:
    text = "Nato il 3/4/1950, visita del 10/01/2022, anche 03.04.1950."
    clean, _ = italian.redact(text, deny=["1950-04-03"], shift_days=20)
    assert clean == "Nato il [DATA], visita del 30/01/2022, anche [DATA]."
    assert italian.redact("visita del 10/01/2022")[0] == "visita del [DATA]"


def test_deny_list_ignores_case_accents_order_and_separators() -> None:
    deny = DenyList(["Però^Nicolò", "PT-12345-X", "Via Cantù 12"])
    for text in ("NICOLO PERO", "però, nicolò", "N. Pero", "pt12345x", "PT 12345 x", "cantu"):
        assert not any(word in deny.replace(text).lower() for word in ("per", "nicol", "12345", "cant")), text
    assert deny.replace("via libera, 12 mm") == "via libera, 12 mm"
    assert not DenyList([])


def test_lines_and_length_are_kept_in_order(italian: TextEngine) -> None:
    text = "Sig. Bianchi\n\nTC torace\r\nfine"
    assert italian.redact(text)[0] == "Sig. [NOME]\n\nTC torace\r\nfine"
    with pytest.raises(InputError):
        italian.redact("x" * 1_000_001)
    with pytest.raises(InputError):
        TextEngine("xx")  # type: ignore[arg-type]


def test_english() -> None:
    text = "Mr. John Smith, MRN 1234567, seen on March 3, 2021 by Dr. Baker. Parkinson disease."
    clean, _ = TextEngine("en").redact(text)
    assert clean == "Mr. [NAME], MRN [CODE], seen on [DATE] by Dr. [NAME]. Parkinson disease."


def test_no_socket_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy.deid import recognizers

    def refuse(*args: object) -> None:
        raise AssertionError("network")

    recognizers._analyzer.cache_clear()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert "@" not in TextEngine("it").redact("Scrivere a a.b@host.example.it o www.host.it")[0]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("CT Chest 5mm, Zorzon Ugo 1234567", "CT Chest 5mm,"),
        ("GE MEDICAL SYSTEMS", "GE MEDICAL SYSTEMS"),
        ("Left lung; 3.5 mm QXZ12K9AB", "Left lung; 3.5 mm"),
        ("333 123 4567 cm", "cm"),
        ("K9X7B2M4", ""),
        ("12/03/2021", ""),
        ("512 512", "512 512"),
        ("ctrl 17/3/24 e 5/3/24 T1 1-5-20 11/08/ 17/03 2024/3 3.4.23", "e T1"),
        ("1/2 3-4 1.25/2.5mm 3.5 mm", "1/2 3-4 1.25/2.5mm 3.5 mm"),
    ],
)
def test_closed_vocabulary(text: str, kept: str) -> None:
    assert clean(text, DenyList()) == kept
