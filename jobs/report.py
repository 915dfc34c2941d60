"""Write a run's report.

``ray job submit -- python jobs/report.py PIPELINE.yaml --run RUN``
"""

import sys

from isohop.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
