"""Chapters and blocks of ICD-10 as WHO's 2019 edition lists them; codes of national modifications find their place."""

from __future__ import annotations

import pytest

from privacy.deid.icd10 import block, chapter


@pytest.mark.parametrize(
    ("category", "its_block", "its_chapter"),
    [
        ("A00", "A00-A09", "A00-B99"), ("A97", "A92-A99", "A00-B99"), ("B20", "B20-B24", "A00-B99"),
        ("B99", "B99-B99", "A00-B99"), ("C34", "C30-C39", "C00-D48"), ("C50", "C50-C50", "C00-D48"),
        ("C97", "C97-C97", "C00-D48"), ("D48", "D37-D48", "C00-D48"), ("D86", "D80-D89", "D50-D89"),
        ("E11", "E10-E14", "E00-E90"), ("F32", "F30-F39", "F00-F99"), ("G20", "G20-G26", "G00-G99"),
        ("H25", "H25-H28", "H00-H59"), ("H90", "H90-H95", "H60-H95"), ("I10", "I10-I15", "I00-I99"),
        ("I63", "I60-I69", "I00-I99"), ("J12", "J09-J18", "J00-J99"), ("J44", "J40-J47", "J00-J99"),
        ("K35", "K35-K38", "K00-K93"), ("L40", "L40-L45", "L00-L99"), ("M17", "M15-M19", "M00-M99"),
        ("M54", "M50-M54", "M00-M99"), ("M81", "M80-M85", "M00-M99"), ("N18", "N17-N19", "N00-N99"),
        ("O80", "O80-O84", "O00-O99"), ("P07", "P05-P08", "P00-P96"), ("Q90", "Q90-Q99", "Q00-Q99"),
        ("R07", "R00-R09", "R00-R99"), ("S72", "S70-S79", "S00-T98"), ("T26", "T26-T28", "S00-T98"),
        ("T98", "T90-T98", "S00-T98"), ("U07", "U00-U49", "U00-U85"), ("V43", "V40-V49", "V01-Y98"),
        ("X59", "X58-X59", "V01-Y98"), ("Y02", "X85-Y09", "V01-Y98"), ("Y57", "Y40-Y59", "V01-Y98"),
        ("Z51", "Z40-Z54", "Z00-Z99"),
    ],
)  # fmt: skip
def test_known_codes(category: str, its_block: str, its_chapter: str) -> None:
    assert (block(category), chapter(category)) == (its_block, its_chapter)


@pytest.mark.parametrize(
    ("category", "its_chapter"), [("A90", "A00-B99"), ("D49", "C00-D48"), ("K95", "K00-K93"), ("Y99", "V01-Y98")]
)
def test_codes_outside_every_block_stand_in_their_chapter(category: str, its_chapter: str) -> None:
    assert block(category) == chapter(category) == its_chapter


def test_codes_with_a_letter_in_third_place_are_in_a_block_only_between_two_of_its_codes() -> None:
    assert (block("C7A"), block("M1A"), block("Z3A")) == ("C76-C80", "M00-M99", "Z00-Z99")
