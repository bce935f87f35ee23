"""All hooks with their signatures. Each runs once, at start-up."""

from __future__ import annotations

from kcframe.interfaces.hooks import hookspec


@hookspec
def kcframe_data():
    """Data sources: a list of `DataSource` classes or `Lazy` references to them."""


@hookspec
def kcframe_teacher():
    """Teacher sources: a list of `TeacherSource` classes or `Lazy` references to them."""


@hookspec
def kcframe_pacing():
    """Pacing policies: a list of `Pacing` classes or `Lazy` references to them."""


@hookspec
def kcframe_expander():
    """Capacity expanders: a list of `Expander` classes or `Lazy` references to them."""


@hookspec
def kcframe_objective():
    """Objectives: a list of `Objective` classes or `Lazy` references to them."""


@hookspec
def kcframe_backbone():
    """Backbones: a list of `Backbone` classes or `Lazy` references to them."""


@hookspec
def kcframe_callback():
    """Callbacks: a list of `Callback` classes or `Lazy` references to them."""
