"""Learn node features (GIANT).

``ray job submit -- python jobs/extract_features.py PIPELINE.yaml --run RUN``
"""

import sys

from isohop.cli import main

if __name__ == "__main__":
    main(["features", *sys.argv[1:]])
