"""From vectors to ranked documents: the vector store, exact search, the ScaNN index."""
