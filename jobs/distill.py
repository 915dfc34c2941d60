"""Train teacher and student (Cold Brew).

``ray job submit -- python jobs/distill.py PIPELINE.yaml --run RUN``
"""

import sys

from isohop.cli import main

if __name__ == "__main__":
    main(["distill", *sys.argv[1:]])
