"""Templates and names that the rules may be written against. Shares nothing with `scoring.py`."""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

from tests.corpus.generate import Material

MATERIAL = Material(
    given="Mario Giuseppina Luca Francesca Antonio Concetta Paolo Rosa Stefano Ilaria Gennaro Assunta Mohamed Fatima Andrei Mihaela Oleksandr Svitlana Xin Amara "
    "Blessing Ahmed Jun Priya Carlos Ornella Nicolò Noemi Salvatore Arjun".split(),
    surnames=[
        "Rossi",
        "Esposito",
        "Colombo",
        "Ferrari",
        "De Luca",
        "D'Angelo",
        "Lo Presti",
        "Russo",
        "Popescu",
        "Hossain",
        "El Amrani",
        "Shevchenko",
        "Zhou",
        "Diallo",
        "Hoxha",
        "Singh",
        "Gutierrez",
        "Zambrotta",
        "Quarantotto",
        "Bonfiglioli",
        "Pedrazzini",
        "Conti",
        "Bianco",
        "Nwosu",
    ],
    streets=[
        "via Garibaldi",
        "viale dei Mille",
        "piazza San Marco",
        "corso Vittorio Emanuele II",
        "via XX Settembre",
        "Oak Street",
        "Mill Lane",
        "Station Road",
    ],
    towns=["Milano", "Busto Arsizio", "Catania", "Reggio Emilia", "Lodi"],
    hospitals=[
        "Ospedale San Raffaele",
        "Policlinico Gemelli",
        "ASST Lariana",
        "Ospedale Niguarda",
        "Casa di Cura Villa Serena",
    ],
    eponyms=[
        "malattia di Parkinson",
        "Child-Pugh B",
        "Gleason 3+4",
        "segno di Giordano negativo",
        "sindrome di Down",
        "Murphy negativo",
        "linfoma di Hodgkin",
        "morbo di Crohn",
        "ECOG 1",
        "Lasix 25 mg",
        "scala di Glasgow",
        "esofago di Barrett",
    ],
    wards=["Chirurgia Vascolare", "Medicina Interna", "Cardiologia", "Ortopedia e Traumatologia"],
    brief=["Ma Li", "Hu Yan", "Bo Xu", "Li Na", "Fei Chen"],
    templates={
        "it": [
            "LISTA OPERATORIA del <date>\n1) <caps> aa <age> colecistectomia - op. <doctor>\n2) <brief> aa <age> ernia inguinale sec. Lichtenstein\nReparto di <ward>, <eponym>.",
            "il sig. <lower> di anni <age> viene x controllo il <thisday>, tel <phone>. <eponym>. inviato da U.O. <ward>",
            "Cognome.......: <surname>\nNome..........: <given>\nNato il.......: <birth>\nResidente.....: <town>\nIndirizzo.....: <address>\nTelefono......: <phone>\nTessera sanitaria: <card>\nNote: <eponym>",
            "Da: <plain> <<email>>\nA: Dott.ssa <doctor>\nData: <date>\nGentile dottoressa, sono <plain>, la mamma di <othergiven>. Il suo IBAN: <iban>. Ho il referto n. <record>. Grazie, <given>",
            "Pz <short>, <oldword>, nota alla Cardiologia di <town>. <eponym>. Accompagnata da <othergiven> (figlia). Documento <idcard>, passaporto <passport>.\nReferto su <url>\n<short>",
            "|Cognome|Nome|Data nasc.|CF|\n|<surname>|<given>|<birth>|<fiscal>|\nTarga <plate>. <eponym>.",
            "Sig.ra <typed> ricoverata in <ward=Chirurgia 2> dal <date>. Chiamare il marito <othergiven>. <eponym>. Uomo di anni <oldage> nel letto accanto. Firma: <short>",
            "LETTERA DI DIMISSIONE\n<hospital>\nPaziente: <name>\nNato il <birth> a <town> - CF <fiscal>\nCartella clinica n. <record>\n\nGentile Collega, dimettiamo in data <date> il/la sig. <surname>, "
            "ricoverato dal <date> per scompenso cardiaco. In anamnesi <eponym>, ipertensione arteriosa. In terapia con Bisoprololo 2.5 mg e Furosemide.\nLa moglie <othergiven> riferisce dispnea.\n"
            "Controllo ambulatoriale il <date>.\nCordiali saluti\nDott. <doctor>",
            "Referto TC torace del <date>. Pz <name>, accesso <record>. Nodulo di 12 mm al lobo superiore destro, <eponym>. Non versamento pleurico. Medico refertante: Dr.ssa <doctor>",
            "VISITA CARDIOLOGICA\nCognome e nome: <name>\tData di nascita: <birth>\nResidente in <address>, tel. <phone>\nTessera sanitaria <card>\nAPR: <eponym>. FA parossistica nel 2019.\n"
            "PA 130/80 mmHg, FC 72 bpm. Si consiglia controllo. Email: <email>",
            "Diario del <date>: pz. <initials> di anni <oldage>, vigile. Contattato il figlio <othergiven> al <phone>. <eponym>. Prosegue Clexane 4000 UI sc per via sottocutanea.\nInf. <doctor>",
            "Consulenza neurologica: <given> <surname>, <age> anni, giunge in PS dopo incidente con auto targata <plate>. Documento <idcard>. GCS 15. Valutato dal dott. <doctor>. Rx cranio negativa. Referti su <url>",
            "| Cognome | Nome | Nosologico | Data |\n| <surname> | <given> | <record> | <date> |\nEmocromo: Hb 12.3 g/dl, GB 7800, PLT 250000. <eponym>.",
            "<surname> <given>, IBAN <iban>, passaporto <passport>. Il paziente riferisce dolore addominale. <eponym>, Blumberg negativo.",
        ],
        "en": [
            "From: <plain> <<email>>\nTo: Dr <doctor>\nHi, mr <lower> was seen on <date> on <ward=Acacia Ward>. He lives at <address>. Ref <record>. Thanks, <given>",
            "DISCHARGE SUMMARY\nPatient: <name>  DOB: <birth>  MRN: <record>\nAddress: <address>\nAdmitted on <date> with chest pain under Dr. <doctor>. History of Parkinson disease.\n"
            "His wife <othergiven> was called on <phone>. Started on Ramipril 5 mg. Discharged <date>.",
            "Clinic letter, <date>. Dear Dr <doctor>, I reviewed Mr <surname>, a <oldage> year old man. Gleason 4+3, ECOG 1. Contact: <email>. Yours sincerely, Dr <doctor>",
        ],
    },
)
