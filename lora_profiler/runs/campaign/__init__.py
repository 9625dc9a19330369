"""Many measurements: which are still owed, in what time, and the largest batch that a device really
holds."""
