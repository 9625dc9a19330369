"""What is stored of a run: its types, JSON, reading, checking, and the store that only grows."""
