"""What crosses the hospital wall, owned by neither side.

Studies, assignments, parcels' contents, receipts and error codes. Nothing here opens a file or a socket.
"""
