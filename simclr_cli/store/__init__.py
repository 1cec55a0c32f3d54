"""What a run leaves on disk, without pickle."""
