"""From a name to an encoder, and from images to embeddings."""
