"""Features: what a question can name beside the defaults, a folder each. `lora_profiler.feature`
finds them by name; nothing imports them, and any of them can be deleted."""
