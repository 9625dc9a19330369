"""Losses of trainers, a folder each.

`__init__.FEATURE` is a `lora_profiler.question.loss.LossFacts`; beside it may be

- `regime(workload, head, batch, seq, sequences)`: the number in which a rule flips;
- `refusals(workload)`: sentences, and whether each applies; `doubts(workload)` likewise: what the
  rules do not follow to the byte;
- `law.price(op, hidden, model, regime)`: the head and the loss as a `LossPath`;
- `stand_in.loss(setup, hidden, weight, bias, labels)`: the loss itself, in the graph.
"""
