"""The command line, one file a verb. Each command imports what it needs when it runs, so that the
answer starts at once."""
