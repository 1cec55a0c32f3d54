"""SimCLR in torch and timm: no files, no printing; settings at most as resolved values."""
