"""The words of what the site tells its data protection officer and its patients, in Italian and English.

Place: `edge/pages.py` and `edge/breach.py` read them, and fill in what stands in braces.
"""

from __future__ import annotations

__all__ = ["LANGUAGES", "Words", "words"]

Words = dict[str, str]

_EN: Words = {
    "title": "What left {site}",
    "period": "Period",
    "always": "from the first entry until now",
    "from": "from {0}",
    "to": "before {0}",
    "journal": "Journal",
    "journal_text": "{lines} entries, each chained to the one before; head {head}",
    "centre": "Consortium's centre",
    "made": "Made on",
    "total": "In all",
    "total_text": "{studies} studies, {releases} releases, {parcels} parcels, {bytes} bytes",
    "nothing": "Nothing left this site in this period.",
    "study": "Study",
    "lane": "What kind",
    "purpose": "Purpose",
    "legal_basis": "Legal basis",
    "controller": "Controller",
    "ethics": "Ethics reference",
    "dataset": "Dataset",
    "recipient": "Sealed to the key",
    "releases": "Releases",
    "when": "when (UTC)",
    "part": "part",
    "parcels": "parcels",
    "bytes": "bytes",
    "persons": "persons",
    "rows": "rows",
    "budget": "privacy spent (epsilon)",
    "receipts": "receipts in the log",
    "unbounded": "not bounded by noise",
    "unknown": "not known",
    "on_medium": "{count} on a medium, no receipt in this period",
    "counted": "{count} after the backup that this site was put back from, by the centre's receipts",
    "withdrawal": "word of a withdrawn consent",
    "rounds": "{count} updates of a training run; the persons are those of the whole run",
    "ended": "What did not leave",
    "ended_text": "refused, failed or expired, by reason",
    "code": "reason",
    "count": "how often",
    "lookups": "Requests for access answered (GDPR 15)",
    "sealed": (
        "Everything left sealed to the key that the signed study names; the network and the gateway saw ciphertext."
    ),
    "harvest": "records in the clear, sealed to the study",
    "anonymize": "de-identified records",
    "extract": "features, or sums over persons",
    "train": "updates of a model; no record left",
    "infer": "nothing but counts",
    "consent": "consent (GDPR 6(1)(a), 9(2)(a))",
    "public-interest": "public interest (GDPR 6(1)(e), 9(2)(i))",
    "scientific-research": "scientific research (GDPR 9(2)(j), 89(1))",
    "legal-obligation": "legal obligation (GDPR 6(1)(c))",
}
_IT: Words = {
    "title": "Che cosa è uscito da {site}",
    "period": "Periodo",
    "always": "dalla prima annotazione a oggi",
    "from": "dal {0}",
    "to": "prima del {0}",
    "journal": "Registro",
    "journal_text": "{lines} annotazioni, ciascuna concatenata alla precedente; testa {head}",
    "centre": "Centro del consorzio",
    "made": "Redatto il",
    "total": "In tutto",
    "total_text": "{studies} studi, {releases} invii, {parcels} pacchi, {bytes} byte",
    "nothing": "In questo periodo nulla è uscito.",
    "study": "Studio",
    "lane": "Di che cosa si tratta",
    "purpose": "Finalità",
    "legal_basis": "Base giuridica",
    "controller": "Titolare",
    "ethics": "Parere etico",
    "dataset": "Insieme di dati",
    "recipient": "Sigillato per la chiave",
    "releases": "Invii",
    "when": "quando (UTC)",
    "part": "parte",
    "parcels": "pacchi",
    "bytes": "byte",
    "persons": "persone",
    "rows": "righe",
    "budget": "riservatezza spesa (epsilon)",
    "receipts": "ricevute nel log",
    "unbounded": "non limitata da rumore",
    "unknown": "non noto",
    "on_medium": "{count} su un supporto, senza ricevuta in questo periodo",
    "counted": "{count} dopo il backup da cui il sito è stato ripristinato, secondo le ricevute del centro",
    "withdrawal": "avviso di un consenso revocato",
    "rounds": "{count} aggiornamenti di un addestramento; le persone sono quelle di tutto l'addestramento",
    "ended": "Che cosa non è uscito",
    "ended_text": "rifiutato, fallito o scaduto, per motivo",
    "code": "motivo",
    "count": "quante volte",
    "lookups": "Richieste di accesso evase (art. 15 GDPR)",
    "sealed": (
        "Tutto è uscito sigillato per la chiave indicata dallo studio firmato; la rete e il gateway hanno "
        "visto solo dati cifrati."
    ),
    "harvest": "dati in chiaro, sigillati per lo studio",
    "anonymize": "dati de-identificati",
    "extract": "caratteristiche, o somme su persone",
    "train": "aggiornamenti di un modello; nessun dato è uscito",
    "infer": "nient'altro che conteggi",
    "consent": "consenso (art. 6.1.a e 9.2.a GDPR)",
    "public-interest": "interesse pubblico (art. 6.1.e e 9.2.i GDPR)",
    "scientific-research": "ricerca scientifica (art. 9.2.j e 89.1 GDPR)",
    "legal-obligation": "obbligo legale (art. 6.1.c GDPR)",
}
_BREACH_EN: Words = {
    "b_title": "Personal data breach: draft notification (GDPR 33)",
    "b_draft": (
        "Draft made from this site's own records on {at}. What stands in [brackets] is for a person to "
        "write. The notification is due within 72 hours after the controller became aware of the breach."
    ),
    "b_nature": "1. Nature of the breach (33(3)(a))",
    "b_nature_text": "[What happened, when, and when this site became aware of it.]",
    "b_scope": (
        "Study {id} ({title}), {lane}; purpose: {purpose}; legal basis: {basis}. What left from {first} to "
        "{last} (UTC)."
    ),
    "b_none": "Nothing of this study left this site in the period: {period}.",
    "b_subjects": (
        "Categories of data subjects: patients of dataset {dataset} at {site}. [Children, or others who need "
        "protection?]"
    ),
    "b_persons": "Approximate number of data subjects: {persons}.",
    "b_records": (
        "Approximate number of personal data records: {records} rows or files in {parcels} parcels ({bytes} bytes)."
    ),
    "b_categories": (
        "Categories of personal data: {columns}. Data concerning health (GDPR 9). Form in which they left: {lane}."
    ),
    "b_dpo": "2. Contact (33(3)(b))",
    "b_dpo_text": (
        "Data protection officer: [name, telephone, e-mail]. Site: {site}. Controller of the study: {controller}."
    ),
    "b_consequences": "3. Likely consequences (33(3)(c))",
    "b_harvest": "The records can be read by whoever holds the study's key {key}. [Who may hold it now?]",
    "b_anonymize": (
        "Names and identifiers had been removed or replaced by keyed pseudonyms; the key never left this "
        "site. Persons might be recognised again by whoever knows rare facts about them. [Judge the risk; "
        "see the parcels' certificates.]"
    ),
    "b_extract": "Features or sums under pseudonyms; the key of these never left this site. [Judge the risk.]",
    "b_train": "Updates of a model, no records. {masked} [Judge what the model itself may tell.]",
    "b_masked": "They were masked: no party but all others together could read this site's own.",
    "b_plain": "They were not masked: whoever holds the run's key could read this site's own.",
    "b_ciphertext": (
        "If only the network, the spool or the landing zone is affected, what was exposed is ciphertext, and "
        "article 34(3)(a) may apply."
    ),
    "b_epsilon": "Bounded by noise: privacy loss at most epsilon {epsilon} in all.",
    "b_measures": "4. Measures (33(3)(d))",
    "b_sealed": (
        "In force: sealed to one key (AES-256-GCM, X25519 with ML-KEM-768), signed, mutual TLS 1.3, receipts "
        "in a transparency log, egress gate, privacy ledger, consent checked before each release."
    ),
    "b_state": "Egress of this site now: {paused}. The study's approval here: {approval}.",
    "b_paused": "stopped",
    "b_open": "open (`corsia edge pause` stops it)",
    "b_taken": (
        "[Measures taken or proposed: pause egress, refuse the study, ask for erasure at the centre, new keys.]"
    ),
    "b_recipients": "5. Recipients",
    "b_recipients_text": "Centre {centre}; controller {controller}; sealed to the key {key}.",
    "b_evidence": "6. Evidence",
    "b_evidence_text": "Journal of {lines} entries, head {head}. Receipts in the log: {receipts}. Parcels: {ids}.",
}
_BREACH_IT: Words = {
    "b_title": "Violazione di dati personali: bozza di notifica (art. 33 GDPR)",
    "b_draft": (
        "Bozza tratta dai registri di questo sito il {at}. Ciò che sta tra [parentesi] deve scriverlo una "
        "persona. La notifica è dovuta entro 72 ore da quando il titolare è venuto a conoscenza della "
        "violazione."
    ),
    "b_nature": "1. Natura della violazione (33.3.a)",
    "b_nature_text": "[Che cosa è accaduto, quando, e quando il sito ne è venuto a conoscenza.]",
    "b_scope": (
        "Studio {id} ({title}), {lane}; finalità: {purpose}; base giuridica: {basis}. Uscite dal {first} al "
        "{last} (UTC)."
    ),
    "b_none": "Di questo studio nulla è uscito dal sito nel periodo: {period}.",
    "b_subjects": (
        "Categorie di interessati: pazienti dell'insieme {dataset} presso {site}. [Minori, o altri da proteggere?]"
    ),
    "b_persons": "Numero approssimativo di interessati: {persons}.",
    "b_records": "Numero approssimativo di registrazioni: {records} righe o file in {parcels} pacchi ({bytes} byte).",
    "b_categories": (
        "Categorie di dati personali: {columns}. Dati relativi alla salute (art. 9 GDPR). Forma in cui sono "
        "usciti: {lane}."
    ),
    "b_dpo": "2. Contatto (33.3.b)",
    "b_dpo_text": (
        "Responsabile della protezione dei dati: [nome, telefono, e-mail]. Sito: {site}. Titolare dello "
        "studio: {controller}."
    ),
    "b_consequences": "3. Probabili conseguenze (33.3.c)",
    "b_harvest": "I dati possono essere letti da chi possiede la chiave dello studio {key}. [Chi può averla ora?]",
    "b_anonymize": (
        "Nomi e identificativi erano stati rimossi o sostituiti da pseudonimi con chiave; la chiave non è "
        "mai uscita dal sito. Chi conosce fatti rari su una persona potrebbe riconoscerla. [Valutare il "
        "rischio; vedere i certificati dei pacchi.]"
    ),
    "b_extract": (
        "Caratteristiche o somme sotto pseudonimo; la relativa chiave non è mai uscita dal sito. [Valutare il rischio.]"
    ),
    "b_train": (
        "Aggiornamenti di un modello, nessun dato individuale. {masked} [Valutare che cosa può rivelare il modello.]"
    ),
    "b_masked": "Erano mascherati: nessuno, se non tutti gli altri insieme, poteva leggere quello di questo sito.",
    "b_plain": "Non erano mascherati: chi possiede la chiave dell'addestramento poteva leggere quelli di questo sito.",
    "b_ciphertext": (
        "Se sono coinvolti solo la rete, lo spool o la zona di arrivo, ciò che è stato esposto è cifrato, e "
        "può valere l'articolo 34.3.a."
    ),
    "b_epsilon": "Limitata da rumore: perdita di riservatezza al più epsilon {epsilon} in tutto.",
    "b_measures": "4. Misure (33.3.d)",
    "b_sealed": (
        "In vigore: sigillo per una sola chiave (AES-256-GCM, X25519 con ML-KEM-768), firma, TLS 1.3 "
        "reciproco, ricevute in un log trasparente, controllo in uscita, registro della riservatezza, "
        "consenso verificato prima di ogni invio."
    ),
    "b_state": "Uscite di questo sito ora: {paused}. Approvazione dello studio qui: {approval}.",
    "b_paused": "ferme",
    "b_open": "aperte (`corsia edge pause` le ferma)",
    "b_taken": (
        "[Misure adottate o proposte: fermare le uscite, rifiutare lo studio, chiedere la cancellazione al "
        "centro, nuove chiavi.]"
    ),
    "b_recipients": "5. Destinatari",
    "b_recipients_text": "Centro {centre}; titolare {controller}; sigillato per la chiave {key}.",
    "b_evidence": "6. Prove",
    "b_evidence_text": "Registro di {lines} annotazioni, testa {head}. Ricevute nel log: {receipts}. Pacchi: {ids}.",
}
LANGUAGES: dict[str, Words] = {"it": _IT | _BREACH_IT, "en": _EN | _BREACH_EN}


def words(language: str) -> Words:
    """The words of a language.

    Raises:
        KeyError: there are none.
    """
    return LANGUAGES[language]
