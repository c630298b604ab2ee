"""What a cohort asks of the place its rows and images come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedhealth.config.schema import DataConfig
from fedhealth.data.manifest import Manifest

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Rejected:
    """An image file that was set aside, and why."""

    path: str
    reason: str


class Pictures(Protocol):
    """A manifest, and the images that its column `image` names."""

    def manifest(self, data: DataConfig, site: str) -> Manifest:
        """Read and check the rows of `site`.

        Raises:
            DataError: as `fedhealth.data.manifest.read_manifest`.

        """

    def state(self, manifest: Manifest) -> str:
        """Return what changes whenever an image does."""

    def store(
        self, manifest: Manifest, data: DataConfig, target: Path, progress: Progress
    ) -> tuple[dict[str, int], list[Rejected]]:
        """Make `target` the images' file: uint8 or uint16 [M, channels, size, size].

        Returns:
            each image's slot by its name in the manifest, and what was set aside.

        Raises:
            DataError: there are too many faults.

        """
