"""Entry point of `python -m simclr_cli`, which is `simclr`."""

import sys

if __name__ == "__main__":
    try:
        from simclr_cli.cli.app import main

        main()
    except ImportError as error:  # of typer or rich, without which no other module can report it
        if (error.name or "").startswith("simclr_cli"):
            raise
        install = f"{sys.executable} -m pip install --upgrade simclr-cli"
        sys.stderr.write(f"Error: A library is missing or broken: {error}.\nInstall it with simclr: {install}\n")
        sys.exit(5)
