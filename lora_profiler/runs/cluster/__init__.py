"""A suite on many machines: over a Ray cluster, or as an array job of Slurm. Ray comes with the
extra `cluster`."""
