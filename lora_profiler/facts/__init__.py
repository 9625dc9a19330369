"""What is known before anybody asks: models and GPUs by name, prices, what each trainer's loop sets
by default, and what others have measured in public. Reads files of this package, and a config from
the Hugging Face hub where a model is not bundled."""
