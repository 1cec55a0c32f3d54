"""Images: from a folder of files to batches of uint8 pixels."""
