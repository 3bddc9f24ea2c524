"""Genotypes at the site: read, normalised, checked, and turned into few numbers per person or per study.

files -> `genotypes.read` (one streaming block form for VCF, BCF, PLINK 1 and 2) -> `alleles` (agreement with a list)
-> `quality`, `scores`, `burden`, `pipelines.features.gwas`. A genotype of a person never leaves this package.
"""
