"""One base class per kind of plugin, one file each.

This package imports nothing by itself: `kcframe.interfaces.options`, `.component` and `.hooks` do not import
torch; most base classes are torch modules.
"""
