"""The graph dataset on disk, and what every later stage may see of it."""

from isohop.graph.dataset import EdgeType, Graph, GraphManifest, NodeType
from isohop.graph.holdout import Holdout, hold_out

__all__ = ["EdgeType", "Graph", "GraphManifest", "Holdout", "NodeType", "hold_out"]
