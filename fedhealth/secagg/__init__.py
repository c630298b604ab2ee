"""Secure aggregation: the lead learns only sums over sites; see docs/secure-aggregation.md.

Pure protocol code based on the standard library, numpy and cryptography, without a network: every step takes bytes and
returns bytes. Packages import downwards only: `client` and `server` use `protocol`, which uses `primitives`.

`SumTerms`, `SumSite` and `SumLead` are one secure sum of vectors, without Flower.
"""

from typing import TYPE_CHECKING

from fedhealth.utils.lazy_exports import make_lazy_getter

if TYPE_CHECKING:
    from fedhealth.secagg.client.sum_site import SumSite
    from fedhealth.secagg.protocol.sum_terms import SumTerms
    from fedhealth.secagg.protocol.threshold import ThresholdPolicy
    from fedhealth.secagg.server.sum_lead import SumLead

__all__ = ["SumLead", "SumSite", "SumTerms", "ThresholdPolicy"]

__getattr__ = make_lazy_getter(
    __name__,
    {
        "SumLead": "fedhealth.secagg.server.sum_lead",
        "SumSite": "fedhealth.secagg.client.sum_site",
        "SumTerms": "fedhealth.secagg.protocol.sum_terms",
        "ThresholdPolicy": "fedhealth.secagg.protocol.threshold",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
