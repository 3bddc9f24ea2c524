"""Feature extractors of lane 3: image series and masks, radiomics, clinical columns.

Pure functions from parsed input to numbers. They open no file and know neither study nor gate.
"""
