"""Everything that reaches into Flower's internals, behind small interfaces of our own."""
