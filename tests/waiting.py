"""Patience of the tests, so that no outcome hangs on the speed of the machine."""

HANGS = 600.0  # seconds after which what has not happened is taken never to happen, however busy the machine
