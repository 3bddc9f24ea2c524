"""Charlson comorbidity index from diagnosis codes.

Categories are lists of code prefixes without dots. A category counts once; the milder of a pair counts nothing when
the more severe is there. Not here: which diagnoses are looked at (`history.py`).

Source: Quan et al., Med Care 2005;43:1130-9 (ICD-10 and enhanced ICD-9-CM lists); weights of Charlson et al. 1987 and
of Quan et al., Am J Epidemiol 2011;173:676-82; age points of Charlson et al. 1994.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

__all__ = ["HIERARCHY", "ICD9CM", "ICD10", "WEIGHTS", "age_points", "categories", "score"]

Weights = Literal["charlson", "quan2011"]


def _spread(text: str) -> tuple[str, ...]:
    """`I60-I69` and `E10.0,1,6` written out: a range of whole codes, or a stem with its last digits."""
    found: list[str] = []
    for word in text.split():
        stem, dot, digits = word.partition(".")
        if dot:
            found += [stem + digit for digit in digits.split(",")]
        elif "-" in word:
            first, last = word.split("-")
            head = re.match(r"[A-Z]*", first)[0]  # type: ignore[index]
            width = len(first) - len(head)
            found += [f"{head}{n:0{width}d}" for n in range(int(first[len(head) :]), int(last[len(head) :]) + 1)]
        else:
            found.append(word)
    return tuple(found)


_MILD_DIABETES, _SEVERE_DIABETES = "0,1,6,8,9", "2,3,4,5,7"

ICD10: Mapping[str, tuple[str, ...]] = {
    name: _spread(codes)
    for name, codes in {
        "myocardial_infarction": "I21 I22 I252",
        "heart_failure": "I099 I110 I130 I132 I255 I420 I425-I429 I43 I50 P290",
        "peripheral_vascular": "I70 I71 I73.1,8,9 I771 I790 I792 K55.1,8,9 Z95.8,9",
        "cerebrovascular": "G45 G46 H340 I60-I69",
        "dementia": "F00-F03 F051 G30 G311",
        "chronic_pulmonary": "I278 I279 J40-J47 J60-J67 J684 J701 J703",
        "rheumatic": "M05 M06 M315 M32 M33 M34 M351 M353 M360",
        "peptic_ulcer": "K25-K28",
        "mild_liver": "B18 K70.0,1,2,3,9 K71.3,4,5,7 K73 K74 K76.0,2,3,4,8,9 Z944",
        "diabetes": " ".join(f"E1{n}.{_MILD_DIABETES}" for n in range(5)),
        "diabetes_complicated": " ".join(f"E1{n}.{_SEVERE_DIABETES}" for n in range(5)),
        "plegia": "G041 G114 G801 G802 G81 G82 G83.0,1,2,3,4,9",
        "renal": "I120 I131 N03.2,3,4,5,6,7 N05.2,3,4,5,6,7 N18 N19 N250 Z49.0,1,2 Z940 Z992",
        "cancer": ("C00-C26 C30-C34 C37-C41 C43 C45-C58 C60-C76 C81-C85 C88 C90-C97"),
        "severe_liver": "I850 I859 I864 I982 K704 K711 K721 K729 K76.5,6,7",
        "metastatic": "C77-C80",
        "hiv": "B20 B21 B22 B24",
    }.items()
}
ICD9CM: Mapping[str, tuple[str, ...]] = {
    name: _spread(codes)
    for name, codes in {
        "myocardial_infarction": "410 412",
        "heart_failure": "39891 40201 40211 40291 40401 40403 40411 40413 40491 40493 4254-4259 428",
        "peripheral_vascular": "0930 4373 440 441 4431-4439 4471 5571 5579 V434",
        "cerebrovascular": "36234 430-438",
        "dementia": "290 2941 3312",
        "chronic_pulmonary": "4168 4169 490-505 5064 5081 5088",
        "rheumatic": "4465 7100-7104 7140 7141 7142 7148 725",
        "peptic_ulcer": "531-534",
        "mild_liver": "07022 07023 07032 07033 07044 07054 0706 0709 570 571 5733 5734 5738 5739 V427",
        "diabetes": "2500 2501 2502 2503 2508 2509",
        "diabetes_complicated": "2504-2507",
        "plegia": "3341 342 343 3440-3446 3449",
        "renal": ("40301 40311 40391 40402 40403 40412 40413 40492 40493 582 5830-5837 585 586 5880 V420 V451 V56"),
        "cancer": "140-172 174-195 200-208 2386",
        "severe_liver": "4560 4561 4562 5722-5728",
        "metastatic": "196-199",
        "hiv": "042 043 044",
    }.items()
}
#: The more severe -> the milder that it makes void.
HIERARCHY = {"diabetes_complicated": "diabetes", "severe_liver": "mild_liver", "metastatic": "cancer"}
WEIGHTS: Mapping[Weights, Mapping[str, int]] = {
    "charlson": dict.fromkeys(ICD10, 1)
    | dict.fromkeys(("diabetes_complicated", "plegia", "renal", "cancer"), 2)
    | {"severe_liver": 3, "metastatic": 6, "hiv": 6},
    "quan2011": dict.fromkeys(ICD10, 0)
    | dict.fromkeys(("heart_failure", "dementia", "mild_liver", "plegia", "cancer", "hiv"), 2)
    | dict.fromkeys(("chronic_pulmonary", "rheumatic", "diabetes_complicated", "renal"), 1)
    | {"severe_liver": 4, "metastatic": 6},
}


def categories(codes: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The categories of a person's diagnoses, before the hierarchy.

    Args:
        codes: (system, code); systems `icd10*` and `icd9cm` take part, dots and case of a code do not matter.
    """
    found = set()
    for name, code in codes:
        table = ICD10 if name.startswith("icd10") else ICD9CM if name == "icd9cm" else {}
        plain = code.replace(".", "").strip().upper()
        found |= {category for category, prefixes in table.items() if plain.startswith(prefixes)}
    return frozenset(found)


def score(found: Iterable[str], weights: Weights = "charlson") -> int:
    """The index of a set of categories, hierarchy applied."""
    held = set(found)
    held -= {milder for severe, milder in HIERARCHY.items() if severe in held}
    return sum(WEIGHTS[weights][category] for category in held)


def age_points(age: float) -> int:
    """1 from 50 years, 2 from 60, 3 from 70, 4 from 80."""
    return max(0, min(4, int(age // 10) - 4))
