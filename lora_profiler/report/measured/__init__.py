"""What was measured, in words and tables: runs live and at the end, next to what was predicted."""
