"""Search of a run's images by their embeddings."""
