"""python -m lemur_mini.cost: see `lemur_mini.cost.accounting`."""

from lemur_mini.cost.accounting import main

if __name__ == "__main__":
    main()
