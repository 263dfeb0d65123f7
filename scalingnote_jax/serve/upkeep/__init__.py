"""While the server runs: what is live is watched (`watch.py`) and exchanged (`swap.py`)."""
