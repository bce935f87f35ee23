"""Data source `glyphs`: every Unicode character that fonts can draw is a class."""
