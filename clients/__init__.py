"""The hospital's side: its Flower application, personalization methods, and their interface for own ones.

`make_secure_client` lets a stock Flower ClientApp take part in secure aggregation.
"""

from typing import TYPE_CHECKING

from fedhealth.utils.lazy_exports import make_lazy_getter

if TYPE_CHECKING:  # Flower and torch load when a name is used
    from clients.app import build_app
    from clients.personalization.base import BasePersonalization, LocalRound, Personalization, TrainingResult
    from clients.secure_client import SecureSite, make_secure_client

__all__ = [
    "BasePersonalization",
    "LocalRound",
    "Personalization",
    "SecureSite",
    "TrainingResult",
    "build_app",
    "make_secure_client",
]

_PERSONALIZATION = ("BasePersonalization", "LocalRound", "Personalization", "TrainingResult")

__getattr__ = make_lazy_getter(
    __name__,
    {
        "build_app": "clients.app",
        **dict.fromkeys(("SecureSite", "make_secure_client"), "clients.secure_client"),
        **dict.fromkeys(_PERSONALIZATION, "clients.personalization.base"),
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
