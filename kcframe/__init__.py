"""kcframe: concentrate what many specialist classifiers know into one student.

Importing this package is cheap: no torch, no ray.
"""

__version__ = "0.1.0"
