"""Loading of encoders, embedding of images, and the description of exported models."""
