"""The gateway: the only process that hospitals can reach. It enrols, hands out assignments, takes parcels.

It holds no study key and sees ciphertext, sizes and times only. Messages become values in `wire.py`; every call
passes the interceptor of `server.py` before any of the services sees it.
"""
