"""A corpus of invented clinical notes with the positions of what identifies: `generate.py` makes it from two sets.

`tuning.py` and `scoring.py` share no template and no name. Rules may be written against the first only; the second is
scored and its failures are not looked at. Both are our own writing, by the same authors as the rules: real notes of
a hospital will score lower, and a site should measure on its own.
"""
