"""The networks of a recipe: specialists and student arms."""

from __future__ import annotations

from kcframe.assembly.plugins import build_backbone, construct
from kcframe.engine.model import Direct, Head, Student
from kcframe.errors import PluginError
from kcframe.interfaces.backbone import Backbone
from kcframe.interfaces.component import label
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.recipe.schema import Specialists, StudentSpec
from kcframe.taxonomy import Taxonomy


def build_specialist(spec: Specialists, channels: int, image_size: int, num_classes: int) -> Student:
    """A specialist is a student of one vertical whose classes see the features directly."""
    backbone = build_backbone(spec.backbone, channels, image_size)
    return bare_specialist(backbone, num_classes)


def bare_specialist(backbone: Backbone, num_classes: int) -> Student:
    sizes = (num_classes,)
    head = Head(Direct(backbone.num_features, sizes), Pacing(PluginOptions(), sizes, num_classes), sizes)
    return Student(backbone, head)


def build_student(spec: StudentSpec, channels: int, image_size: int, taxonomy: Taxonomy) -> Student:
    """A student arm: backbone, expander, classifiers and pacing, as its recipe says."""
    backbone = build_backbone(spec.backbone, channels, image_size)
    expander = construct("expander", spec.expander, backbone.num_features, taxonomy.sizes)
    pacing = construct("pacing", spec.pacing, taxonomy.sizes, taxonomy.num_classes)
    try:
        head = Head(
            expander,
            pacing,
            taxonomy.sizes,
            bias=spec.classifier.bias,
            init_bias=spec.classifier.init_bias,
        )
    except ValueError as error:
        raise PluginError(f"{label(pacing)} cannot start this head: {error}") from error
    return Student(backbone, head)
