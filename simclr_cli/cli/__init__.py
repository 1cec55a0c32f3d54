"""The face: the only code that knows typer and rich."""
