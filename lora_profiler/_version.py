"""The version, on the ground floor: faces that print it need not know the package that names every
room."""

__version__ = "0.4.0"
