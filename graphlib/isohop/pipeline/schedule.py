"""``schedule:`` of the pipeline file: when Airflow runs it, and how often a stage is tried.

Here it is only checked. `airflow_dags/isohop.py` acts on it, which imports nothing of Isohop.
"""

from __future__ import annotations

import re
from datetime import date

from pydantic import Field, field_validator

from isohop.relational.as_of import Day
from isohop.yaml_file import StrictModel

_PRESET = r"@(?:once|hourly|daily|weekly|monthly|quarterly|yearly|continuous)"
_FIELD = r"[\w*,/#?-]+"
_RANGES = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
_NUMBER = re.compile(r"(?<![\w/#])\d+")
"""In a field of cron, but for steps and counts of weeks."""


class ScheduleSettings(StrictModel):
    """When, and how often again."""

    cron: str | None = Field("@daily", pattern=rf"^(?:{_PRESET}|{_FIELD}(?: {_FIELD}){{4}})$")
    """A preset or five fields of cron; null: only when somebody asks."""
    start: Day = date(2026, 1, 1)
    """The first day that a run may be of."""
    catchup: bool = Field(False, strict=True)
    """Whether days that were missed are run as well."""
    retries: int = Field(2, ge=0)
    """How often a stage that fails is tried again. A file that is wrong is not tried again."""
    retry_minutes: float = Field(5.0, ge=0)
    """Between a failure and the next try."""
    timeout_hours: float = Field(12.0, gt=0)
    """After which a stage has failed."""
    pool: str = Field("default_pool", min_length=1)
    """Airflow's pool whose slots its stages take."""

    @field_validator("cron")
    @classmethod
    def _within_range(cls, cron: str | None) -> str | None:
        fields = () if cron is None or cron.startswith("@") else cron.split()
        for field, (name, (least, most)) in zip(fields, _RANGES.items(), strict=False):
            if not all(least <= int(number) <= most for number in _NUMBER.findall(field)):
                raise ValueError(f"the {name} of cron is from {least} to {most}")
        return cron
