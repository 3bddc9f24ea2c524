"""Steps from one schema of the central database to the next, run by Alembic (`central/store/schema.py`)."""
