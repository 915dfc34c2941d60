"""Cold Brew: a GNN teacher with structural embeddings, and a student that needs no edges.

Zheng et al., "Cold Brew: Distilling graph node representations with incomplete or missing
neighborhoods", ICLR 2022, made typed: `docs/methods.md`.
"""

from isohop.coldbrew.settings import DistillSettings

__all__ = ["DistillSettings"]
