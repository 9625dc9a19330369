"""Many runs: `campaign` measures a list of cases and resumes it, `cluster` does so on Ray or Slurm,
`comparison` holds predictions against what was measured."""
