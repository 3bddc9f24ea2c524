"""Omics matrices at the site: samples x features of transcript counts, protein or metabolite abundances.

file -> `matrix.read` -> `quality.assess` -> `normalise` -> `genesets` -> one row of few numbers per sample.
Whatever is centred or scaled here refers to the samples of this site only, unless a reference is handed in: values
of two sites are comparable as positions within their site, not as absolute amounts.
"""
