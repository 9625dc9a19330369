"""The JSON of `predict` and `bench`, for other programs."""
