"""The contracts: generated from the `.proto` files beside this one; see `make proto`."""
