"""The hospital's side. `edge/agent.py` is the file to read."""
