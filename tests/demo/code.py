"""Python that the demo's subject never saw."""

# Written for the tests, so on no side of any split.
CODE = '''
class Basket:
    """A basket of things that were bought, with their prices."""

    def __init__(self, owner, limit=None):
        self.owner = owner
        self.limit = limit
        self.items = []

    def add(self, name, price):
        if price < 0:
            raise ValueError("price must not be negative: %r" % price)
        if self.limit is not None and len(self.items) >= self.limit:
            raise RuntimeError("the basket is full")
        self.items.append((name, price))

    def total(self):
        """Return the sum of all prices."""
        return sum(price for name, price in self.items)

    def __repr__(self):
        return "<%s of %s>" % (self.__class__.__name__, self.owner)


def main(args=None):
    import argparse
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=10, help="how many things fit")
    options = parser.parse_args(args)
    basket = Basket("me", options.limit)
    try:
        basket.add("bread", 3)
    except ValueError as exc:
        print(exc)
    return basket


if __name__ == "__main__":
    main()
'''
