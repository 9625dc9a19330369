"""Lengths of samples, and the batches that trainers make of them. Loaded only for questions about
data; neither numpy nor torch."""
