"""The built-in plugins. They use the same hooks as plugins of other distributions.

This module imports their options only, so that listing and validating them does not import torch.
"""

from __future__ import annotations

from kcframe.builtin.backbones import options as backbones_options
from kcframe.builtin.expanders import options as expanders_options
from kcframe.builtin.objectives import options as objectives_options
from kcframe.builtin.pacing import options as pacing_options
from kcframe.builtin.sources.glyphs.options import GlyphsOptions
from kcframe.builtin.sources.image_folder_options import ImageFolderOptions
from kcframe.builtin.sources.open_images.options import OpenImagesOptions
from kcframe.builtin.sources.synthetic_options import SyntheticOptions
from kcframe.builtin.teachers import options as teachers_options
from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe.interfaces.options import PluginOptions
from kcframe.pictures.labelled_options import ParquetOptions, WebDatasetOptions


def _lazy(name: str, place: str, options: type[PluginOptions], summary: str) -> Lazy:
    return Lazy(name, f"kcframe.builtin.{place}", options, summary)


@hookimpl
def kcframe_data():
    return [
        _lazy(
            "glyphs",
            "sources.glyphs.source:Glyphs",
            GlyphsOptions,
            "Unicode characters drawn by font faces",
        ),
        _lazy(
            "image-folder",
            "sources.image_folder:ImageFolder",
            ImageFolderOptions,
            "folders of pictures, one folder a class",
        ),
        _lazy(
            "open-images",
            "sources.open_images.source:OpenImages",
            OpenImagesOptions,
            "Open Images V3 to V7, from object storage",
        ),
        _lazy(
            "parquet",
            "sources.parquet:Parquet",
            ParquetOptions,
            "Parquet files with a column of pictures and one of labels",
        ),
        _lazy(
            "synthetic",
            "sources.synthetic:Synthetic",
            SyntheticOptions,
            "made-up classes of any number, for sizing and tests",
        ),
        _lazy(
            "webdataset",
            "sources.webdataset:WebDataset",
            WebDatasetOptions,
            "tar shards of pictures with their labels beside them",
        ),
    ]


@hookimpl
def kcframe_teacher():
    return [
        _lazy(
            "specialists",
            "teachers.specialists:Specialists",
            teachers_options.SpecialistsOptions,
            "the specialists trained in this run, one a vertical",
        ),
        _lazy(
            "checkpoint",
            "teachers.checkpoint:Checkpoint",
            teachers_options.CheckpointOptions,
            "a specialist saved by another run",
        ),
    ]


@hookimpl
def kcframe_pacing():
    return [
        _lazy(
            "none", "pacing.none:NoPacing", PluginOptions, "logits as they are, all verticals weigh the same"
        ),
        _lazy(
            "self-paced",
            "pacing.self_paced:SelfPaced",
            pacing_options.SelfPacedOptions,
            "logits normalised and scaled by a learned gamma (eq. 4)",
        ),
    ]


@hookimpl
def kcframe_expander():
    return [
        _lazy(
            "fc-fc",
            "expanders.layers:FcFc",
            expanders_options.FcOptions,
            "(a) FC(s1)-FC(s2): all units shared",
        ),
        _lazy(
            "fc-sc",
            "expanders.layers:FcSc",
            expanders_options.FcOptions,
            "(b) FC(s1)-SC(s2): shared, then a block a vertical",
        ),
        _lazy(
            "sc-sc",
            "expanders.layers:ScSc",
            expanders_options.FcOptions,
            "(c) SC(s1)-SC(s2): two blocks a vertical",
        ),
        _lazy(
            "fc-sc-shared",
            "expanders.layers:FcScShared",
            expanders_options.FcScSharedOptions,
            "(d) FC(s1)-SC(s2, x): x of a block's units shared by all verticals",
        ),
    ]


@hookimpl
def kcframe_objective():
    return [
        _lazy(
            "hard-bce", "objectives.bce:HardBce", PluginOptions, "sigmoid cross-entropy on the labels (eq. 1)"
        ),
        _lazy(
            "top-k-bce",
            "objectives.bce:TopKBce",
            objectives_options.TopKBceOptions,
            "sigmoid cross-entropy on the teachers' K best (eq. 2)",
        ),
    ]


@hookimpl
def kcframe_backbone():
    return [
        _lazy(
            "small-cnn",
            "backbones.small_cnn:SmallCnn",
            backbones_options.SmallCnnOptions,
            "a few convolutions, for small pictures and CPUs",
        ),
        _lazy(
            "torchvision",
            "backbones.torchvision_models:TorchvisionBackbone",
            backbones_options.TorchvisionOptions,
            "any of torchvision's classification models",
        ),
        _lazy(
            "inception-v2",
            "backbones.inception_v2:InceptionV2",
            backbones_options.InceptionV2Options,
            "BN-Inception, 1024 features: the paper's base network",
        ),
    ]
