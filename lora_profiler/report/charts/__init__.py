"""Figures of predictions and measurements, as plain dicts that `report.svg` draws; see `plot`."""
