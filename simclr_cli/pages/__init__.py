"""What is looked at in a browser: whole pages in one file each, without network or script."""
