"""Compute every entity's embedding.

``ray job submit -- python jobs/embed.py PIPELINE.yaml --run RUN``
"""

import sys

from isohop.cli import main

if __name__ == "__main__":
    main(["embed", *sys.argv[1:]])
