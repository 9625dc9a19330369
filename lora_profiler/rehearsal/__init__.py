"""A user's own training script over the real CUDA build of torch and libraries that do nothing:
what it would ask of a card.

Data flows one way: `environment` (which torch is there), `elf` and `symbols` (what its libraries
need), `build` (the stub libraries, in the user's cache), `cards` (which card they pretend),
`launch` (the command, and what `inside` wrote in its process), `result`."""
