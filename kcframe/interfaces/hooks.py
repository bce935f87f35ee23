"""The marker a plugin puts on the functions kcframe calls.

from kcframe.interfaces.hooks import hookimpl

@hookimpl
def kcframe_pacing():
    return [MyPacing]
"""

import pluggy

PROJECT = "kcframe"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
