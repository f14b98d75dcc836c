"""The proxy of the lab, which the tests break connections with too."""

from testproject.flows import CHUNK, RESET, End
from testproject.proxy import Mode, Point, Proxy

__all__ = ["CHUNK", "RESET", "End", "Mode", "Point", "Proxy"]
