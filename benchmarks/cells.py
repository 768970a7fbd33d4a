"""
How evenly clients fill cells, whole copies of the system with so many clients each: `python -m benchmarks.cells`.

Clients are not alike: the n-th largest orders 1/n^s of what the largest does. A client is put into the cell that its
name's hash says, or, if it is among the largest, into the emptiest one. What counts is the fullest cell: all have to be
as large as it.
"""

import argparse
import heapq
import random


def shares(clients: int, *, skew: float) -> list[float]:
    """The share of all orders of each client, the largest first."""
    weights = [1 / rank**skew for rank in range(1, clients + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def fullest(sizes: list[float], *, cells: int, placed: int, seed: int) -> float:
    """The load of the fullest cell ÷ the mean, if so many of the largest clients are placed by hand."""
    emptiest = [(0.0, cell) for cell in range(cells)]
    for size in sizes[:placed]:
        load, cell = emptiest[0]
        heapq.heapreplace(emptiest, (load + size, cell))
    loads = [0.0] * cells
    for load, cell in emptiest:
        loads[cell] = load
    chance = random.Random(seed)
    for size in sizes[placed:]:
        loads[chance.randrange(cells)] += size
    return max(loads) * cells / sum(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--skew", type=float, default=1.0, help="0: all clients are alike; 1: as names of cities are")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sizes = shares(arguments.clients, skew=arguments.skew)
    print(f"the largest of {arguments.clients} clients places {100 * sizes[0]:.1f} % of the orders")
    print("cells   fullest ÷ mean: by hash   largest 10 a cell by hand")
    for cells in (4, 10, 20, 100):
        by_hash, by_hand = (
            fullest(sizes, cells=cells, placed=placed, seed=arguments.seed) for placed in (0, 10 * cells)
        )
        print(f"{cells:5}   {by_hash:24.2f}   {by_hand:25.2f}")


if __name__ == "__main__":
    main()
