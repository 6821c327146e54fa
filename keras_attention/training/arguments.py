"""Checks of arguments that several modules take."""


def is_int(value):
    """Whether a value is an integer, which True and False are not here."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_every_epochs(every_epochs):
    """Refuses what is no positive integer."""
    if not is_int(every_epochs) or every_epochs < 1:
        raise ValueError(f"`every_epochs` must be a positive integer. Received: every_epochs={every_epochs!r}")
