"""Training loops, a file each.

`FEATURE` is a `lora_profiler.question.loop.LoopFacts`. Optional: `doubts(setup)`, sentences
about what the rules do not follow to the byte, and whether each applies;
`put_together_bytes(setup)`, what is made for a pass in addition to its columns;
`nearest_estimated(setup)`, what an estimate from the model's modules makes in place of the loop's
own code; `nearest_traced(setup)`, what a trace makes of it, with the sentence `NEAREST` about it.
"""
