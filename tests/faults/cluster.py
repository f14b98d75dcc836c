"""The lab's primary and standby, which the tests fail over too."""

from testproject.standby import Replicated

__all__ = ["Replicated"]
