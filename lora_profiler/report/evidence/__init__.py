"""How far off predictions were, in words and tables, and the interval that follows."""
