"""The claims that LoRA rests on, each checked on a real model with PEFT's own layers: numbers, a
verdict and a sentence.

`claim` holds the claims themselves and needs no torch; `sources` finds a model to check them on,
`verify` runs them. Every other module checks one claim, or is a small part that several of them
share. Everything runs on the CPU and from one seed.
"""
