"""A recipe's names become objects: data source, backbones, heads, objectives, teachers.

Every worker does this for itself from the resolved recipe; objects never travel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from pydantic import ValidationError

from kcframe.engine.checkpoint import laid_out_like, unpack_weights
from kcframe.engine.model import Direct, Head, Student
from kcframe.errors import DataError, KcframeError, PluginError, StorageError
from kcframe.interfaces.backbone import Backbone
from kcframe.interfaces.callback import Callback
from kcframe.interfaces.component import label
from kcframe.interfaces.data import DataSource
from kcframe.interfaces.objective import Objective
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource
from kcframe.interfaces.transform import Transform
from kcframe.recipe.schema import PluginRef, Recipe, Specialists
from kcframe.recipe.schema import Student as StudentSpec
from kcframe.registry import installed
from kcframe.run_dir import WEIGHTS, RunDir, specialist_folder
from kcframe.storage import HOPELESS, PAUSES_AT_FIRST, explained, patiently, without_secrets
from kcframe.taxonomy import Taxonomy


def construct(kind: str, ref: PluginRef, *arguments: Any) -> Any:
    """Build a plugin: its class, given its checked options and `arguments`.

    What its constructor raises becomes a PluginError that names the plugin, its distribution and the
    recipe's line.
    """
    component = installed().get(kind, ref.name)
    plugin = component.load()
    provenance = f"{ref.line}: {component}" if ref.line else str(component)
    try:
        options = component.options.model_validate(ref.options)
        built = plugin(options, *arguments)
    except KcframeError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise PluginError(f"{provenance}: its option '{path}': {first['msg']}") from None
    except Exception as error:  # a stranger's code: anything may come
        raise PluginError(f"{provenance} cannot be built: {type(error).__name__}: {error}") from error
    built.provenance = provenance
    return built


@lru_cache(maxsize=2)
def _source(ref_json: str, line: str) -> DataSource:
    ref = PluginRef.model_validate_json(ref_json)
    return construct("data", ref.model_copy(update={"line": line}))


def build_source(recipe: Recipe) -> DataSource:
    """The data source; kept, since stages that follow each other in a process share it."""
    return _source(recipe.data.model_dump_json(), recipe.data.line)


def transform_of(source: DataSource) -> Transform:
    """What a picture from elsewhere goes through before a network that learned from this source."""
    return source.transform or Transform(channels=source.channels, image_size=source.image_size)


def build_backbone(ref: PluginRef, channels: int, image_size: int) -> Backbone:
    return construct("backbone", ref, channels, image_size)


def build_specialist(spec: Specialists, channels: int, image_size: int, num_classes: int) -> Student:
    """A specialist is a student of one vertical whose classes see the features directly."""
    backbone = build_backbone(spec.backbone, channels, image_size)
    return _bare_specialist(backbone, num_classes)


def _bare_specialist(backbone: Backbone, num_classes: int) -> Student:
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


def build_objective(ref: PluginRef) -> Objective:
    return construct("objective", ref)


def build_callbacks(recipe: Recipe) -> list[Callback]:
    """A stage's callbacks."""
    return [construct("callback", ref) for ref in recipe.callbacks]


def teacher_sources(spec: StudentSpec) -> list[TeacherSource]:
    """The arm's teacher sources; none if its objective asks no teacher."""
    if not build_objective(spec.objective).uses_teachers:
        return []
    return [construct("teacher", ref) for ref in spec.teachers]


def teacher_context(source: DataSource, run_dir: RunDir, has_specialists: bool) -> TeacherContext:
    """What teacher sources are told of the run."""
    names = source.taxonomy.verticals if has_specialists else ()
    return TeacherContext(
        taxonomy=source.taxonomy,
        channels=source.channels,
        image_size=source.image_size,
        read=read_file,
        specialist_files={v: run_dir.path(f"{specialist_folder(v)}/{WEIGHTS}") for v in names},
        load_specialist=load_specialist,
    )


def build_teachers(
    spec: StudentSpec, source: DataSource, run_dir: RunDir, has_specialists: bool
) -> list[Teacher]:
    """All teachers of an arm, from files that are there by now."""
    context = teacher_context(source, run_dir, has_specialists)
    found = []
    for each in teacher_sources(spec):
        for teacher in each.teachers(context):
            teacher.provenance = f"{label(each)}: teacher '{teacher.name}'"
            check_label_map(teacher, source.taxonomy.num_classes)
            found.append(teacher)
    return found


def check_label_map(teacher: Teacher, num_classes: int) -> None:
    """PluginError if a teacher names a class that there is not."""
    wrong = teacher.label_map[(teacher.label_map < 0) | (teacher.label_map >= num_classes)]
    if len(wrong):
        raise PluginError(
            f"{label(teacher)}: its label map names class {int(wrong.max())}, the taxonomy has 0 to "
            f"{num_classes - 1}"
        )


def read_file(url: str) -> bytes:
    """Bytes of a path or URL. DataError, naming it, if it is not there; StorageError if it cannot be read
    now."""
    import fsspec

    shown = without_secrets(url)
    try:
        storage, path = fsspec.url_to_fs(url)
        return patiently(lambda: storage.cat_file(path), PAUSES_AT_FIRST if "://" in url else ())
    except FileNotFoundError:
        raise DataError(f"{shown}: no such file") from None
    except (*HOPELESS, ImportError, ValueError) as error:
        raise DataError(f"{shown}: cannot be read: {explained(error)}") from None
    except Exception as error:  # each storage raises its own
        raise StorageError(f"{shown}: cannot be read: {explained(error)}") from error


def load_specialist(url: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Rebuild a saved specialist: (pictures in 0..1 -> logits, what its file says of it)."""
    data, url = read_file(url), without_secrets(url)
    state, about = unpack_weights(data, url)
    if about.get("kind") != "specialist":
        raise DataError(f"{url}: this is a {about.get('kind', 'file')}, not a specialist")
    try:
        ref, classes = PluginRef(**about["backbone"]), about["classes"]
        channels, image_size = about["channels"], about["image_size"]
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{url}: was written by another kcframe: {error}") from None

    def build() -> Student:
        return _bare_specialist(build_backbone(ref, channels, image_size), len(classes))

    return restore(build, state, url, f"backbone '{ref.name}'"), about


def restore(build: Callable[[], Student], state: dict[str, torch.Tensor], url: str, what: str) -> Student:
    """A network with the weights of a file, ready to be used. Raises DataError if they do not fit `what`.

    Where its plugins allow it, it is built without memory: nothing is drawn at random, and no file is asked
    for the weights that training began with.
    """
    network = _restored_without_memory(build, state)
    if network is None:
        network = build()
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            reason = " ".join(line.strip() for line in lines[1:] or lines)
            raise DataError(f"{url}: its weights do not fit {what} as it is now: {reason[:300]}") from None
    return network.requires_grad_(False).eval()


def _restored_without_memory(build: Callable[[], Student], state: dict[str, torch.Tensor]) -> Student | None:
    """None if that cannot be: weights that do not fit, or a plugin that looks at its numbers or keeps some
    out of its state."""
    try:
        with torch.device("meta"):
            network = build()
        own = network.state_dict()
        laid_out = {k: laid_out_like(own[k], v) if k in own else v for k, v in state.items()}
        network.load_state_dict(laid_out, assign=True)
    except Exception:  # a stranger's code: whatever is wrong shows when it is built for real
        return None
    kept = chain.from_iterable(vars(module).values() for module in network.modules())
    every = chain(network.parameters(), network.buffers(), kept)
    return None if any(isinstance(t, torch.Tensor) and t.is_meta for t in every) else network
