"""Mathematics and formats: sealing, de-identification, disclosure control, transparency. No network."""
