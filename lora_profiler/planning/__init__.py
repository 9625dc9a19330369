"""What to do with predictions: choose the answerer, judge a card, search sizes that fit, find what
lowers the peak."""
