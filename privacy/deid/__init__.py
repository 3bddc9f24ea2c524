"""De-identification: DICOM, text and tables under one key, and an independent second look.

Pure: bytes, strings and frames in, the same out; nothing here opens a network connection or writes a file. The heavy
engines (pydicom, presidio, pandas) are imported only when they are used.
"""
