"""The interface of an image source: where a dataset's rows and images come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class WrittenImages:
    """The result of writing the images.

    Attributes:
        slots: of each image by its name in the manifest.
        rejected: images that cannot be used.
        digests: of the pixels by name; empty if the source has already looked for copies.

    """

    slots: Mapping[str, int]
    rejected: tuple[RejectedImage, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


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
    ) -> WrittenImages:
        """Write the images to `target`, a .npy file: uint8 or uint16 [M, channels, size, size].

        Raises:
            DataError: too many images are rejected.

        """
