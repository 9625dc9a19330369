"""The real training step traced on the meta device, and compiled into profiles. Knows torch."""
