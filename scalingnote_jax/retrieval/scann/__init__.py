"""The index by ScaNN: its files, its calls, the library itself."""
