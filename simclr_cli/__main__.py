"""Entry point of `python -m simclr_cli`, which is `simclr`."""

from simclr_cli.cli.app import main

if __name__ == "__main__":
    main()
