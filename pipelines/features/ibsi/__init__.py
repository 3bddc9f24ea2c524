"""IBSI-1 features of a region: numbers in, numbers out.

Reads no file and knows no geometry but the spacing. Names are the tags of the IBSI reference values.

Source: Zwanenburg et al., The image biomarker standardisation initiative, arXiv 1612.07003; Radiology 295(2), 2020.
"""
