"""``schedule:`` of the pipeline file: when Airflow runs it, and how often a stage is tried.

Here it is only checked. `airflow_dags/isohop.py` acts on it, which imports nothing of Isohop.
"""

from __future__ import annotations

from datetime import date

from pydantic import Field

from isohop.yaml_file import StrictModel

_PRESET = r"@(?:once|hourly|daily|weekly|monthly|quarterly|yearly|continuous)"
_FIELD = r"[\w*,/#?-]+"


class ScheduleSettings(StrictModel):
    """When, and how often again."""

    cron: str | None = Field("@daily", pattern=rf"^(?:{_PRESET}|{_FIELD}(?: {_FIELD}){{4}})$")
    """A preset or five fields of cron; null: only when somebody asks."""
    start: date = date(2026, 1, 1)
    """The first day that a run may be of."""
    catchup: bool = False
    """Whether days that were missed are run as well."""
    retries: int = Field(2, ge=0)
    """Of a stage that fails. A file that is wrong is not tried again."""
    retry_minutes: float = Field(5.0, ge=0)
    timeout_hours: float = Field(12.0, gt=0)
    """Of a stage."""
    pool: str = Field("default_pool", min_length=1)
    """Airflow's pool whose slots its stages take."""
