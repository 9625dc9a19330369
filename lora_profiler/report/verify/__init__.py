"""The document of `lora-profile verify`: its tables, charts and headlines."""
