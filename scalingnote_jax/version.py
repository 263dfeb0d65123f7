"""The version, for whatever carries it: datasets, exports, `--version`."""

__version__ = "0.1.0"
