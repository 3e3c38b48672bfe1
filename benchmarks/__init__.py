"""Comparisons with other libraries and with bare passes of the model; see README.md."""
