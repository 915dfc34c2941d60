"""One stage of a pipeline, for whatever submits jobs.

``spark-submit jobs/run_stage.py build PIPELINE.yaml --run RUN --set engine=spark``
"""

import sys

from isohop.cli import main

if __name__ == "__main__":
    main(["stage", *sys.argv[1:]])
