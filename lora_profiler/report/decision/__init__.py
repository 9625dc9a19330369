"""What to take, in words: a plan, its front, a cluster, and where one way overtakes another."""
