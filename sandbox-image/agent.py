"""Stub until the agent is written: PID 1 that reaps and ends on SIGTERM."""
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    signal.pause()
