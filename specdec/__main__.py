"""`python -m specdec`: the `specdec` command."""

from specdec.cli.app import main

if __name__ == "__main__":
    main()
