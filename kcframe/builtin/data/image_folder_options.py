from kcframe.interfaces.options import PluginOptions


class ImageFolderOptions(PluginOptions):
    root: str
