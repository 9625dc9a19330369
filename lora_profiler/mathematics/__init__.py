"""The claims that LoRA rests on, measured on a real model with PEFT's own layers.

`report.claims` says what each claim is and holds the type of its evidence; the module of the same
name here measures it. `sources` finds a model, `verify` runs the checks; the other modules are what
several of them share. Everything runs on the CPU and from one seed.
"""
