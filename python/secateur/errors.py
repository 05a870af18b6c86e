"""The errors of the package. Wrong arguments are plain ValueError and TypeError."""


class SecateurError(Exception):
    """Base of every error that the package defines."""


class FormatError(SecateurError, ValueError):
    """A file or packed array that is damaged, foreign, or of a newer version."""


class UnsupportedOpError(SecateurError, NotImplementedError):
    """A layer or operator that cannot be pruned, compiled or run."""


class MissingExtraError(SecateurError, ImportError):
    """A feature whose optional dependency is not installed; the message names the extra."""
