"""What is looked at in a browser: whole pages in one file each, without network; and but for the map without script."""
