"""`python -m scalingnote_jax`: the `scalingnote` command, where its script is not on the path."""

from scalingnote_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
