"""Engines: ways to run a scan. All share the meaning of `nextstate.loops`; they differ in speed and reach."""
