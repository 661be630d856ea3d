"""`python -m fuseline` is `fuseline`."""

from fuseline.cli import main

if __name__ == "__main__":
    main()
