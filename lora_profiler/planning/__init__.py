"""What to do with predictions: choose the engine, say whether a GPU holds it, search sizes that
fit, find what lowers the peak, plan a training."""
