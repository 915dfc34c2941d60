"""Publish a run's embeddings.

``ray job submit -- python jobs/publish.py PIPELINE.yaml --run RUN``
"""

import sys

from isohop.cli import main

if __name__ == "__main__":
    main(["publish", *sys.argv[1:]])
