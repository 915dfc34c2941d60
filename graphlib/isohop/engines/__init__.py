"""The engines: the Spark session (Sail or Spark), the Ray session, storage, progress."""
