"""One base class per kind of plugin, one file each.

This package imports nothing by itself: `kcframe.interfaces.options`, `.component` and `.hooks` are
free of torch, the base classes are torch modules.
"""
