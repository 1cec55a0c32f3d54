"""One file a command: plain functions `verb(settings, report=...) -> Result` that know no terminal."""
