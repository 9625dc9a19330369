"""Figures of predictions and measurements, as plain dicts of plotly's attributes; see `plot`."""
