"""A trainer's own file as a question: axolotl, LLaMA-Factory, torchtune, TRL, Unsloth."""
