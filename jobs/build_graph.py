"""Build a graph on Spark: ``spark-submit jobs/build_graph.py SCHEMA.yaml --out DIR``.

With ``--engine sail`` it runs without Spark, as ``python jobs/build_graph.py``.
"""

import sys

from isohop.cli import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not any(argument.startswith("--engine") for argument in arguments):
        arguments += ["--engine", "spark"]
    main(["build", *arguments])
