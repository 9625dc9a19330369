"""Features: what a question can name in addition to the defaults, a folder or a file each.
`lora_profiler.feature` finds them by name; nothing imports them, and any of them can be deleted."""
