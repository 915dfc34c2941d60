"""GIANT: node features from text, learned by predicting each node's neighbourhood.

Chien et al., "Node feature extraction by self-supervised multi-scale neighborhood prediction",
ICLR 2022, made typed and leak-free: `docs/methods.md`.
"""

from isohop.giant.settings import FeatureSettings

__all__ = ["FeatureSettings"]
