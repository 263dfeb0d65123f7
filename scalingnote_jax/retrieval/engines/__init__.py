"""What answers with the nearest vectors, behind one interface: ScaNN in this process (the default),
exact search without any library, Milvus for what one machine cannot hold.

`index.engine` chooses; `opening.py` builds and opens. How ScaNN is tuned: `retrieval/tuning.py`.
"""
