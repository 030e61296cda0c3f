"""See docs/decoding.md for what lives here."""
