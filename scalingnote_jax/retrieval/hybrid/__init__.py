"""The shipped tower and BM25 together: two rankings, fused into one.

`fuse.py` has the two ways, `saved_words.py` BM25's index on disk, `shipped_hybrid.py` puts them
together for a workdir and tunes them on its dev queries.
"""
