"""Files, and processes that fork: what the operating system asks of everything above."""
