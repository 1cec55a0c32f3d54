"""Search of a folder of images by their embeddings."""
