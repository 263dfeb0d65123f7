"""`scalingnote serve`: the shipped path of a finished workdir over HTTP.

`server.py` runs it, `app.py` has the endpoints, `batcher.py` puts waiting texts together, `live.py`
answers them. Not for training, nor for building what is served. Needs the extra `serve`.
"""
