"""The lowest floor: errors, events, files, hardware, text, seeds, processes."""
