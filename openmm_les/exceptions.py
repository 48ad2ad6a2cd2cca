"""Errors that a caller may want to catch by type; everything else is ValueError or TypeError."""


class OpenMMLESError(Exception):
    """Root of the package's own errors."""


class CheckpointError(OpenMMLESError):
    """A model file is missing, damaged, or of another format."""


class UnknownElementError(OpenMMLESError, ValueError):
    """A model meets an element it was not trained on."""


class RouteError(OpenMMLESError):
    """The installed versions cannot run the requested route into OpenMM."""


class EmbeddingError(OpenMMLESError, ValueError):
    """An ML region cannot be embedded in the given MM system."""


class DataError(OpenMMLESError, ValueError):
    """Training or evaluation data cannot be used as given."""


class RunError(OpenMMLESError):
    """A simulation run cannot start, continue, or be written."""


class LicenseWarning(UserWarning):
    """A model's weights may be used for some purposes only."""
