"""Real training runs on this machine: memory, time and what the machine did meanwhile, one record each."""
