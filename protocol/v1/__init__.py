"""Generated from fleet.proto by `make proto`; imported only at the two walls."""
