"""The stages of a run: one small frozen class a kind, each in its own file. `plan` lists a run's."""
