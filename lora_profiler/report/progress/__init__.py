"""What is shown while something runs: benchmarks, claims, calibration."""
