"""Recipes: read, checked, resolved. Imports neither torch nor ray."""
