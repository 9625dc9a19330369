"""How many bytes a step holds, moment by moment, without torch. Two engines answer the same
question: `analytic` by written rules for the model types that it knows, and by a model's modules
for others, `compiled` by the laws and profiles that `trace` has made from the libraries' own code.
Both give a `prediction`."""
