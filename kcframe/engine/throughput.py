"""How fast training goes."""

from __future__ import annotations


class Throughput:
    """Counts images and seconds of steps; the first step is left out: it warms everything up."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        self._warm = False

    def add(self, images: int, seconds: float) -> None:
        """A step: its images of all workers together, and how long it took with loading them."""
        if self._warm:
            self.images += images
            self.seconds += seconds
        self._warm = True

    @property
    def images_per_second(self) -> float | None:
        """None before the second step."""
        return self.images / self.seconds if self.seconds else None
