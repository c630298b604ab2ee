"""A power cut at a chosen moment of a site's work."""


class PowerCutError(BaseException):
    """The process is gone: no handler of it runs any more."""


def cut_power_at(patch, owner, name, runs):
    """Lose power at a call of `owner.name`; `runs` tells whether the call itself still has its effect."""
    genuine = getattr(owner, name)

    def break_off(*args, **kwargs):
        if runs:
            genuine(*args, **kwargs)
        raise PowerCutError

    patch.setattr(owner, name, break_off)
