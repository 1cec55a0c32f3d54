"""SimCLR in torch and timm: no options, no files, no printing."""
