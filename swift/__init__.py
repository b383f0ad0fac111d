"""An object store that speaks OpenStack Swift's HTTP API, formats and protocols."""

__version__ = "2.38.0"
