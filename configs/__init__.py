"""The configs that come with the package, installed as `scalingnote_jax.configs`.

One file is one run, read by its path (`config/load.py`); nothing is imported from here. This file
only makes the folder a package, which an editable install needs to find it.
"""
