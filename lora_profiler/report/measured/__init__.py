"""What was measured, in words and tables: runs live and at the end, beside what was predicted."""
