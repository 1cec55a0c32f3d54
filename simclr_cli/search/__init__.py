"""Embeddings kept up to date, and queries of them."""
