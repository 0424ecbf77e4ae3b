"""`python -m nextstate`: the command, also where its script is not on the path."""

from nextstate.cli import main

if __name__ == "__main__":
    main()
