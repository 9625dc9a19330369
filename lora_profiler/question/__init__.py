"""What a user can ask, as one frozen `Workload`: a model and how it is trained. Each option is
declared once, here; `adapters` matches PEFT's target modules, `batching` turns samples into
batches, and `support` says what can be answered, or why not. `feature` finds the folders of
`features`."""
