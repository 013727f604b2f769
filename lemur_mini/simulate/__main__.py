"""python -m lemur_mini.simulate: see `lemur_mini.simulate.drift`."""

from lemur_mini.simulate.drift import main

if __name__ == "__main__":
    main()
