"""The logical side: entities and events; from a database and a model of it to hop normal form."""
