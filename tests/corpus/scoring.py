"""Templates and names that are scored. Shares nothing with `tuning.py`; no rule is changed for a failure seen here.

It is still our own writing, by the authors of the rules, so its figures are an upper bound for real notes.
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

from tests.corpus.generate import Material

MATERIAL = Material(
    given="Giulio Loredana Federico Martina Vincenzo Carmela Edoardo Beatrice Rocco Filomena Youssef Khadija Ionut Elena Dmytro Ludmila Wei Ngozi Chidi Abdoulaye "
    "Rajesh Sunita Juan Milagros Desirée Niccolò Agnese Tommaso Besnik Mirela Xhevdet Ruslan Aminata Rosalinda Kehinde Desta Sukhwinder Ottavia Graziano".split(),
    surnames=[
        "Moretti",
        "Greco",
        "Marchetti",
        "Della Valle",
        "Lo Cascio",
        "D'Amico",
        "Ferraris",
        "Bellandi",
        "Ionescu",
        "Chowdhury",
        "Ben Salah",
        "Kovalenko",
        "Huang",
        "Traoré",
        "Krasniqi",
        "Kaur",
        "Quispe",
        "Sorrentino",
        "Trevisan",
        "Passalacqua",
        "Gualtierotti",
        "Okafor",
        "Sciortino",
        "Bragadin",
        "Mezzapesa",
        "Dal Pozzolo",
        "Zeqiri",
        "Ungureanu",
        "Tkachenko",
        "Ouattara",
        "Balogun",
        "Macaraeg",
        "Condori",
        "Uddin",
        "Zhong",
        "Cipriotti",
        "Sant'Elia",
        "Baldassarri",
        "Lacquaniti",
    ],
    streets=[
        "via Giuseppe Mazzini",
        "viale della Repubblica",
        "piazza Dante",
        "largo Sant'Antonio",
        "vicolo del Forno",
        "strada Provinciale Sud",
        "Church Road",
        "Elm Avenue",
        "Queen Street",
    ],
    towns=["Torino", "Sesto San Giovanni", "Palermo", "San Donà di Piave", "Cuneo", "Castellammare di Stabia"],
    hospitals=[
        "Ospedale Maggiore",
        "Policlinico San Martino",
        "AOU Careggi",
        "Ospedale Sant'Orsola",
        "Clinica Santa Rita",
        "IRCCS Galeazzi",
    ],
    eponyms=[
        "morbo di Alzheimer",
        "sindrome di Sjögren",
        "linfoma di Burkitt",
        "classificazione di Bismuth-Corlette",
        "Breslow 1.2 mm",
        "segno di Babinski assente",
        "Lasègue positivo a destra",
        "malattia di Graves",
        "test di Romberg negativo",
        "Karnofsky 80",
        "Rankin 2",
        "scala di Norton 14",
        "diverticolo di Meckel",
        "frattura di Colles",
        "fenomeno di Raynaud",
        "tiroidite di Hashimoto",
        "Douglas libero",
        "Xarelto 20 mg",
        "Pembrolizumab 200 mg",
        "ernia di Bochdalek",
        "Mallampati 2",
        "Clavien-Dindo II",
        "Killip II",
        "Cordarone 200 mg",
    ],
    wards=["Pneumologia", "Nefrologia e Dialisi", "Chirurgia Toracica", "Geriatria", "Medicina d'Urgenza"],
    brief=["Wu Na", "Ye Fan", "Du Mei", "Xu Bin", "Lai Hua", "Sy Awa"],
    templates={
        "it": [
            "CONSEGNE DI TURNO - REPARTO DI <ward>\nLetto 4: <short>, stabile, <eponym>.\nLetto 7: <caps> - TAC domani.\nLetto 9: sig.ra <brief>, digiuno dalla mezzanotte.\nAvvisato il dott. <doctor> alle ore 22:40.",
            "COGNOME;NOME;NATO IL;TELEFONO\n<surname>;<given>;<birth>;<phone>\nSi segnala <eponym> dal <date>.",
            "paziente <lower>, nato il <birth> a <town>, residente in <address>, cod. fisc. <fiscal>. riferisce dispnea da sforzo. <eponym>. ultima visita <date>, medico curante dr. <doctor>",
            "Buongiorno Dottore,\nle scrivo per mio padre <plain>, ricoverato nella vostra Divisione di <ward>. Il suo numero è <phone>, il mio indirizzo <email>. La cartella è la n. <record>.\nCordiali saluti\n<othergiven> <surname>",
            "Il <thisday> giungeva in PS <surnamefirst>, <oldword>, caduta in casa (<address>). Tessera sanitaria <card>. <eponym>; <eponym>. Trasferita in <ward=Medicina 2> il <date>. Contattare <othergiven> (nipote).",
            "SCHEDA ANESTESIOLOGICA\nPaziente: <typed>     Età: <age>     Peso: 71 kg\nNosologico: <record>     Data: <date>\nASA II, <eponym>, <eponym>. Apertura orale > 4 cm.\nDocumento esibito: <idcard>; passaporto <passport>\nAnestesista: <short>",
            "Si certifica che <caps>, nata a <town> il <birth>, C.F. <fiscal>, è affetta da <eponym>. Il rimborso è disposto su IBAN <iban>; auto di servizio targata <plate>. Copia su <url>\nIn fede\nDott. <doctor>",
            "<hospital> - U.O. <ward=Chirurgia>\nRELAZIONE CLINICA ALLA DIMISSIONE\n\nEgregio Dottore,\nsi dimette oggi <date> il Suo assistito <name> (<birth>), codice fiscale <fiscal>, residente a <town> in <address>.\n"
            "Ricovero dal <date> al <date>, nosologico <record>.\nDiagnosi: colecistite acuta litiasica. Comorbidità: <eponym>; diabete mellito tipo 2.\nDecorso: intervento di colecistectomia laparoscopica eseguito dal dott. <doctor> "
            "in data <date>, decorso regolare.\nTerapia: Paracetamolo 1000 mg x 3/die; Enoxaparina 4000 UI s.c. per 10 giorni.\nPer informazioni: <phone>, <email>.\n\nIl Medico dimettente\nDr. <doctor>",
            "RM ENCEFALO CON MDC\nEsame del <date>   ID paziente: <record>\nPaziente <name>, nato/a il <birth>\n\nQuesito: <eponym>.\nTecnica: sequenze T1, T2, FLAIR e DWI.\nReperti: non lesioni focali a carattere espansivo. Spazi liquorali nei limiti.\n"
            "Confronto con esame del <date>.\nFirmato digitalmente da <doctor>",
            "Ambulatorio di <ward=Oncologia>. Visita di controllo del <date>.\nSi presenta la sig.ra <surname>, anni <age>, accompagnata dalla figlia <othergiven> (cell. <phone>). PS ECOG 0. <eponym>.\n"
            "EO: addome trattabile, non linfoadenopatie. Esami: CEA 3.4, CA 19-9 22, creatinina 0.9 mg/dl.\nSi programma TC TAP entro 3 mesi. Prossima visita <date> con la dott.ssa <doctor>.",
            "Verbale PS n. <record> del <date>\nTriage: verde. Il paziente <given> <surname> di <oldage> anni, tessera <card>, giunge accompagnato dal nipote <othergiven> dopo caduta accidentale in <address>.\n"
            "APP: <eponym>. In terapia con Cardioaspirin 100 mg e Lobivon.\nEsito: dimesso. Medico: <doctor>",
            "Paziente;CF;Tel;Esame;Data\n<name>;<fiscal>;<phone>;Ecocardiogramma;<date>\nFE 55%, lieve insufficienza mitralica, <eponym>.",
            "Colloquio con i familiari: presenti il marito <othergiven> e la badante sig.ra <doctor>. <given> appare orientata. Permangono <eponym> e deficit di forza. Carta d'identità <idcard>. "
            "Bonifico su IBAN <iban>. Rivalutazione il <date>.",
            "ANAMNESI: <surname> <given> nato a <town>, fumatore di 20 sigarette/die, allergie note: penicillina. Pregressa <eponym> nel <date>. Padre deceduto per IMA.\n"
            "ESAME OBIETTIVO: toni cardiaci validi, MV ridotto alle basi.\nVeicolo targa <plate>. Passaporto <passport>.\nReferto online: <url>\nMMG: <doctor>",
            "Operatore: <doctor>\tAnestesista: <doctor>\nIntervento del <date> - cartella <record>\nEmicolectomia destra per adenocarcinoma G2 pT3N1. <eponym>. Perdite ematiche 150 cc. Conta garze esatta.",
        ],
        "en": [
            "Nursing handover, <date>\nBed 3 - <plain>, <oldage> years, from <ward=Cedar Ward>. Son <othergiven> rings on <phone>. Waterlow 14.\nBed 5 - mrs <lower>, record no <record>, for discharge to <address>.\nNurse <doctor>",
            "Radiology report\nName: <name>\nHospital No: <record>\nDate of examination: <date>\nClinical details: known Crohn disease, weight loss.\nFindings: mural thickening of the terminal ileum. No free fluid. Compared with <date>.\n"
            "Reported by Dr <doctor>",
            "<date>\nDear Dr <doctor>,\nRe: <name>, DOB <birth>, <address>\nThank you for referring this pleasant <age> year old lady with Hashimoto thyroiditis. She lives with her husband <othergiven>. "
            "She takes Levothyroxine 75 mcg. Her phone number is <phone>. I will review her in <date>.\nKind regards\n<doctor>\nConsultant Physician",
            "ED note: <given> <surname> is a <oldage>-year-old brought in by daughter <othergiven>. NHS number <record>. Child-Pugh A cirrhosis. Seen by nurse <doctor> on <date>. Email <email>.",
        ],
    },
)
