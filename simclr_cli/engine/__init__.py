"""SimCLR itself: torch and timm only; no files, no paths, no printing."""
