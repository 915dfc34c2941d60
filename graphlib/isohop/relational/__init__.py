"""The physical side: reading tables, their keys and references, and the integrity ledger."""
