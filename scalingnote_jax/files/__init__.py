"""Files that somebody else may have written: read and checked, or refused in one line."""
