"""How operators run on pieces: for each, the placements of its operands that let members work apart."""

from workloads.sharding.rules.choose import run

__all__ = ["run"]
