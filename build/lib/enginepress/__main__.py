"""`python -m enginepress` is the command line."""

from enginepress.cli import main

if __name__ == "__main__":
    main()
