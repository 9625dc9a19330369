"""What a question can name in addition to the defaults, a folder or a file each: adapter methods,
bases, losses, kernels, loops, optimizers, trainers. `question/feature.py` finds them by name.
Nothing imports them, and any of them can be deleted."""
