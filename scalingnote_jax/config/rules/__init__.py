"""Rules over several fields, a file for each part of the config; `validate.py` calls them all."""
