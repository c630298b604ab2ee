"""Patient-level differential privacy: engines, noise, plan, accountant, ledger and audit.

The exported names train a torch model of your own: an engine clips and sums the gradients of each patient, an optimizer
with Opacus's interface adds the noise, a budget books it in a ledger. Neither Flower nor a configuration is needed.
"""

from typing import TYPE_CHECKING

from fedhealth.utils.lazy_exports import make_lazy_getter

if TYPE_CHECKING:  # torch and Opacus load when a name is used
    from fedhealth.privacy.accounting.budget import PrivacyBudget
    from fedhealth.privacy.accounting.ledger import Ledger
    from fedhealth.privacy.accounting.plan import PrivacyPlan, PrivacyRequest
    from fedhealth.privacy.accounting.release import digest_words, load_release_key, record_release
    from fedhealth.privacy.context import AccountingContext
    from fedhealth.privacy.engines.base import ClippedBatch, GradientEngine
    from fedhealth.privacy.engines.book_keeping import BookKeepingEngine
    from fedhealth.privacy.engines.dp_optimizer import NoisyOptimizer
    from fedhealth.privacy.engines.opacus_hooks import OpacusEngine
    from fedhealth.privacy.engines.self_check import run_self_check
    from fedhealth.privacy.mechanisms.clipping import Clipping
    from fedhealth.privacy.mechanisms.poisson_sampler import PatientSampler

__all__ = [
    "AccountingContext",
    "BookKeepingEngine",
    "ClippedBatch",
    "Clipping",
    "GradientEngine",
    "Ledger",
    "NoisyOptimizer",
    "OpacusEngine",
    "PatientSampler",
    "PrivacyBudget",
    "PrivacyPlan",
    "PrivacyRequest",
    "digest_words",
    "load_release_key",
    "record_release",
    "run_self_check",
]

__getattr__ = make_lazy_getter(
    __name__,
    {
        "AccountingContext": "fedhealth.privacy.context",
        "BookKeepingEngine": "fedhealth.privacy.engines.book_keeping",
        "ClippedBatch": "fedhealth.privacy.engines.base",
        "Clipping": "fedhealth.privacy.mechanisms.clipping",
        "GradientEngine": "fedhealth.privacy.engines.base",
        "Ledger": "fedhealth.privacy.accounting.ledger",
        "NoisyOptimizer": "fedhealth.privacy.engines.dp_optimizer",
        "OpacusEngine": "fedhealth.privacy.engines.opacus_hooks",
        "PatientSampler": "fedhealth.privacy.mechanisms.poisson_sampler",
        "PrivacyBudget": "fedhealth.privacy.accounting.budget",
        "PrivacyPlan": "fedhealth.privacy.accounting.plan",
        "PrivacyRequest": "fedhealth.privacy.accounting.plan",
        **dict.fromkeys(("digest_words", "load_release_key", "record_release"), "fedhealth.privacy.accounting.release"),
        "run_self_check": "fedhealth.privacy.engines.self_check",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
