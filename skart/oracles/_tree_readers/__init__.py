"""Readers of each library's trees: where a fitted model keeps them, and how it compares."""
