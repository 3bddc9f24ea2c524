"""Genome-wide association over sites by sums: the same estimates as on pooled data, and no genotype moves.

`plan` (what all agree on) -> `linear` or `logistic` (a site's sums, guarded) -> addition -> `solve` or `newton`
(the centre's estimates) -> `result` (P, lambda) -> `plots`.
"""
