"""A rehearsal in words: its answer, a page, step time, records. Nothing here was measured."""
