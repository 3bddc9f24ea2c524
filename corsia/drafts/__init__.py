"""From a hospital's CSV files to a training study: what the columns are, what is to be predicted, and the TOML.

Files are read as a site's agent reads them (`edge.sources.table`), so that what is told here holds there.
"""
