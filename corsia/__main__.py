"""`python -m corsia` is the command `corsia`."""

from corsia.cli import main

main()
