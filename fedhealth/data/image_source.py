"""The interface of an image source: where a dataset's rows and images come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedhealth.config.schema import DataConfig
from fedhealth.data.manifest import Manifest

ImageProgress = Callable[[int, int], None]
"""Called with (images done, images in total)."""


@dataclass(frozen=True)
class RejectedImage:
    """An image file that cannot be used, and the reason."""

    path: str
    reason: str


class ImageSource(Protocol):
    """A manifest and the images that its column `image` names."""

    def load_manifest(self, data: DataConfig, site: str) -> Manifest:
        """Read and check the rows of `site`.

        Raises:
            DataError: see `fedhealth.data.manifest.read_manifest`.

        """

    def fingerprint(self, manifest: Manifest) -> str:
        """Return a text that changes whenever an image changes."""

    def write_images(
        self, manifest: Manifest, data: DataConfig, target: Path, progress: ImageProgress
    ) -> tuple[dict[str, int], list[RejectedImage]]:
        """Write the images to `target`, a .npy file: uint8 or uint16 [M, channels, size, size].

        Returns:
            the slot of each image by its name in the manifest, and the rejected images.

        Raises:
            DataError: too many images are rejected.

        """
